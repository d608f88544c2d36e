"""Readings as they are kept (see `intake`): their tables, which hold no records because there is too much of
it, and the questions about them. Separate from `tables` by its size."""

import datetime
import functools
import hashlib
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from mesh import errors, resources, store

_REGION_BITS = 43
_ROW = struct.Struct(">hiqiqidi1si")


def add_to(metadata: sa.MetaData) -> None:
    """Readings and what they come to. A series' number begins with its region, so that a region's rows lie
    together."""
    big, double, text = sa.BigInteger, sa.Double, sa.Text

    def key(name: str, **more: Any) -> sa.Column[Any]:
        return sa.Column(name, big, primary_key=True, autoincrement=False, nullable=False, **more)

    def table(name: str, *columns: sa.Column[Any], comment: str, **more: Any) -> None:
        found = sa.Table(name, metadata, *columns, comment=comment, sqlite_with_rowid=False, **more)
        metadata.info.setdefault("of", {})[name] = functools.partial(_of_region, found)

    sums = ("count", "valid", "total", "low", "high")
    table(
        "reading_series", key("series"), sa.Column("station", text, nullable=False),
        sa.Column("factor", text, nullable=False),
        sa.Column("watched_ms", big, nullable=False, comment="up to when readings were held against limits"),
        comment="what a series of readings measures",
    )  # fmt: skip
    table(
        "readings", key("series"), key("time_ms", comment="milliseconds since 1970, UTC"),
        sa.Column("value", double, nullable=False, comment="as measured; never changed"),
        sa.Column("flag", text, nullable=False, comment="the device's own mark (HJ 212)"),
        sa.Column("invalid", text, nullable=False, comment="why it is not valid; empty when it is"),
        comment="what stations measured", postgresql_partition_by="RANGE (time_ms)",
    )  # fmt: skip
    for name, start in (("reading_hours", "hour_ms"), ("reading_days", "day_ms")):
        columns = (sa.Column(n, big if n in ("count", "valid") else double, nullable=False) for n in sums)
        table(name, key("series"), key(start), *columns, comment="what readings come to; of the valid ones")


def _of_region(table: sa.Table, region: str) -> Any:
    first = int(region) << _REGION_BITS
    return table.c.series.between(first, first + (1 << _REGION_BITS) - 1)


def series_of(station: str, factor: str) -> int:
    """The number of the series of a factor at a station, the same on every node."""
    digest = hashlib.sha256(f"{station}\0{factor}".encode()).digest()
    region = int(resources.region_in(station))
    return region << _REGION_BITS | int.from_bytes(digest[:8]) >> (64 - _REGION_BITS)


def make_room(opened: store.Store, months: Iterable[tuple[str, int, int]]) -> None:
    """Makes the partitions of months, (yyyymm, first, first of the next), on PostgreSQL."""
    for name, first, behind in () if opened.sqlite else months:
        text = (
            f"CREATE TABLE IF NOT EXISTS readings_{name} PARTITION OF readings "
            f"FOR VALUES FROM ({first}) TO ({behind})"
        )
        opened.database.transact(functools.partial(_execute, text=text))


def _execute(cursor: Any, text: str) -> None:
    cursor.execute(text.encode())


def times_there(opened: store.Store, series: int, first: int, last: int) -> set[int]:
    """The times at which there are readings of a series already."""
    sql = opened.database.prepare(
        "readings there",
        lambda: sa.text(
            "SELECT time_ms FROM readings WHERE series = :series AND time_ms BETWEEN :first AND :last"
        ).bindparams(*(sa.bindparam(n, type_=sa.BigInteger) for n in ("series", "first", "last"))),
    )
    rows = opened.database.fetch(sql, {"series": series, "first": first, "last": last})
    return {time for (time,) in rows}


Columns = tuple[int, Sequence[int], Sequence[float], str, Sequence[str] | None]
"""Of one series: its number, times, values, flags (empty: all N), and why each is not valid."""


def add_readings(
    opened: store.Store, region: str, known: Sequence[dict[str, Any]], columns: Sequence[Columns],
    sums: dict[str, list[dict[str, Any]]],
) -> None:  # fmt: skip
    """Adds readings that are not there yet, and to the sums of their hours and days; everything or nothing.
    NotOwnedHere when the region is another node's by now, Taken when somebody else added one first."""
    database = opened.database
    broken: Any = database.engine.dialect.dbapi.IntegrityError  # type: ignore[union-attr]

    def work(cursor: Any) -> None:
        if not database.run(cursor, _owned(opened), {"region": region, "domain": opened.domain}).fetchall():
            raise errors.NotOwnedHere(region=region)
        database.run_many(cursor, _known(opened), list(known))
        try:
            if opened.sqlite:
                for series, times, values, flags, invalid in columns:
                    rows = zip(
                        itertools.repeat(series), times, values, flags or itertools.repeat("N"),
                        invalid or itertools.repeat(""), strict=False,
                    )  # fmt: skip
                    cursor.executemany("INSERT INTO readings VALUES (?, ?, ?, ?, ?)", rows)
            else:
                with cursor.copy(b"COPY readings FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
                    for each in columns:
                        copy.write(_binary(*each))
                    copy.write(b"\xff\xff")
        except broken as fault:  # on SQLite it would end what other callers are writing too
            raise errors.Conflict(name=f"readings of {region}") from fault
        for name, spans in sums.items():
            database.run_many(cursor, _sum(opened, name), spans)

    database.transact(work)


def _binary(
    series: int, times: Sequence[int], values: Sequence[float], flags: str, invalid: Sequence[str] | None
) -> bytes:
    """Rows as COPY takes them in binary: five fields, each behind its length."""
    five, eight, one = itertools.repeat(5), itertools.repeat(8), itertools.repeat(1)
    marks: Iterable[bytes] = [c.encode() for c in flags] if flags else itertools.repeat(b"N")
    rows = map(
        _ROW.pack, five, eight, itertools.repeat(series), eight, times, eight, values, one, marks,
        itertools.repeat(0) if invalid is None else map(len, invalid),
    )  # fmt: skip
    if invalid is None:
        return b"".join(rows)
    return b"".join(row + why.encode() for row, why in zip(rows, invalid, strict=True))


def _owned(opened: store.Store) -> Any:
    t = opened.plumbing.ownership
    region, domain = (sa.bindparam(k, type_=sa.Text) for k in ("region", "domain"))
    asked = sa.select(t.c.epoch).where(t.c.region == region, t.c.domain == domain, t.c.frozen.is_(False))
    return opened.database.prepare("readings owned", lambda: asked.with_for_update(read=True))


def _known(opened: store.Store) -> Any:
    return opened.database.prepare(
        "series known",
        lambda: sa.text(
            "INSERT INTO reading_series (series, station, factor, watched_ms) "
            "VALUES (:series, :station, :factor, 0) "
            "ON CONFLICT DO NOTHING"
        ).bindparams(sa.bindparam("series", type_=sa.BigInteger), sa.bindparam("station", type_=sa.Text),
                     sa.bindparam("factor", type_=sa.Text)),
        many=True,
    )  # fmt: skip


def _sum(opened: store.Store, name: str) -> Any:
    """Adds to the sum of a span. Least and greatest are of the valid ones only, which may be none."""
    start = "hour_ms" if name == "reading_hours" else "day_ms"
    least, most = ("min", "max") if opened.sqlite else ("least", "greatest")

    def either(which: str, column: str) -> str:
        return (
            f"{column} = CASE WHEN {name}.valid = 0 THEN excluded.{column} WHEN excluded.valid = 0 "
            f"THEN {name}.{column} ELSE {which}({name}.{column}, excluded.{column}) END"
        )

    def build() -> Any:
        return sa.text(
            f"INSERT INTO {name} (series, {start}, count, valid, total, low, high) "
            f"VALUES (:series, :start, :count, :valid, :total, :low, :high) ON CONFLICT (series, {start}) "
            f"DO UPDATE SET {either(least, 'low')}, {either(most, 'high')}, "
            f"count = {name}.count + excluded.count, valid = {name}.valid + excluded.valid, "
            f"total = {name}.total + excluded.total"
        ).bindparams(
            *(sa.bindparam(n, type_=sa.BigInteger) for n in ("series", "start", "count", "valid")),
            *(sa.bindparam(n, type_=sa.Double) for n in ("total", "low", "high")),
        )

    return opened.database.prepare(("sum", name), build, many=True)


def readings(opened: store.Store, series: int, first: int, behind: int, most: int) -> Sequence[Any]:
    """(time_ms, value, flag, invalid) of a series, first to last."""
    t = opened.metadata.tables["readings"]
    return opened.database.select(
        sa.select(t.c.time_ms, t.c.value, t.c.flag, t.c.invalid)
        .where(t.c.series == series, t.c.time_ms >= first, t.c.time_ms < behind)
        .order_by(t.c.time_ms)
        .limit(most)
    )


def unwatched(opened: store.Store, since: int) -> set[str]:
    """The stations with readings since a time that were not held against limits."""
    s, r = opened.metadata.tables["reading_series"], opened.metadata.tables["reading_hours"]
    hour = 3_600_000
    asked = (
        sa.select(s.c.station)
        .where(r.c.series == s.c.series, r.c.hour_ms > since - hour, r.c.hour_ms + hour > s.c.watched_ms)
        .distinct()
    )
    return {station for (station,) in opened.database.select(asked)}


def watched(opened: store.Store, series: Sequence[int]) -> dict[int, int]:
    """Up to when the readings of each series were held against limits."""
    t = opened.metadata.tables["reading_series"]
    rows = opened.database.select(sa.select(t.c.series, t.c.watched_ms).where(t.c.series.in_(series)))
    return dict(rows)  # type: ignore[arg-type]


def mark_watched(opened: store.Store, series: int, until: int) -> None:
    """Notes up to when."""
    t = opened.metadata.tables["reading_series"]
    opened.database.change(t.update().where(t.c.series == series).values(watched_ms=until))


def mark_all_watched(opened: store.Store, series: Sequence[int]) -> None:
    """Notes that there is nothing to hold series against, up to their last readings."""
    s, r = opened.metadata.tables["reading_series"], opened.metadata.tables["readings"]
    last = sa.select(sa.func.max(r.c.time_ms)).where(r.c.series == s.c.series).scalar_subquery()
    opened.database.change(
        s.update().where(s.c.series.in_(series)).values(watched_ms=sa.func.coalesce(last, s.c.watched_ms))
    )


def sums_of(opened: store.Store, name: str, series: Sequence[int], first: int, behind: int) -> Sequence[Any]:
    """(series, start, count, valid, total, low, high) of spans, by series and time."""
    t = opened.metadata.tables[name]
    start = list(t.primary_key.columns)[1]
    columns = (t.c.series, start, t.c.count, t.c.valid, t.c.total, t.c.low, t.c.high)
    return opened.database.select(
        sa.select(*columns)
        .where(t.c.series.in_(series), start >= first, start < behind)
        .order_by(t.c.series, start)
    )


def calibrated(
    opened: store.Store, cls: Any, station: str, within: tuple[int, int]
) -> list[tuple[str, int, int]]:
    """(factor, start, end) of the calibrations of a station that touch a span, in milliseconds."""
    t = opened.codec(cls).table
    sql = opened.database.prepare(
        "calibrated",
        lambda: sa.select(t.c.factor, t.c.start_time, t.c.end_time).where(
            t.c.station == sa.bindparam("station", type_=sa.Text),
            t.c.start_time <= sa.bindparam("last", type_=t.c.start_time.type),
            t.c.end_time > sa.bindparam("first", type_=t.c.end_time.type),
        ),
    )
    first, last = (opened.instant(resources.EPOCH + datetime.timedelta(milliseconds=ms)) for ms in within)
    rows = opened.database.fetch(sql, {"station": station, "first": first, "last": last})
    return [(factor, ms_of(resources.when(start)), ms_of(resources.when(end))) for factor, start, end in rows]


def ms_of(moment: datetime.datetime) -> int:
    """Milliseconds since 1970 of a moment."""
    return (moment - resources.EPOCH) // datetime.timedelta(milliseconds=1)


def corrections(
    opened: store.Store, cls: Any, of: tuple[Sequence[str], str], first: Any, behind: Any
) -> Sequence[Any]:
    """(station, time, number, value) of corrections of stations in a factor, the last of a reading last."""
    t = opened.codec(cls).table
    return opened.database.select(
        sa.select(t.c.station, t.c.time, t.c.number, t.c.value)
        .where(t.c.station.in_(of[0]), t.c.factor == of[1], t.c.time >= first, t.c.time < behind)
        .order_by(t.c.station, t.c.time, t.c.number)
    )
