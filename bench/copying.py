"""Rows copied a second out of a backlog, from a batch as it came over the line to the commit, to the driver's
own time for the same records, events and cursor, made ready beforehand, in batches of the same size."""

import pathlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from bench import figures, places
from bench.backlog import Backlog
from mesh import copies
from mesh.store import Store
from tests.county import REGION, County
from village.mesh.v1 import link_pb2

EVENTS, PAIRS = 20_000, 5
NAMES = [f"copying.{kind}" for kind in places.KINDS]
NODE = REGION
AT = "UPDATE mesh_cursor SET number = number + {} WHERE region = {}"
_Batches = list[list[tuple[str, list[str], list[tuple[Any, ...]]]]]
"""Of each batch by table: columns and rows."""


def measure(
    names: Sequence[str], folder: pathlib.Path, server: sa.URL | None, count: int
) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    home = folder / "copying"
    home.mkdir()
    backlog = Backlog(home / "backlog")
    answers = backlog.answers(count)
    backlog.close()
    size, pairs = sum(len(a.rows) for a in answers) / count, PAIRS if count <= EVENTS else 1
    for name in names:
        kind = name.split(".")[1]

        def ours(kind: str = kind) -> float:
            place = home / f"{kind}-{time.monotonic_ns()}"
            place.mkdir()
            county = County(place, places.empty(kind, folder, server))
            try:
                return _ours(county.store, answers, count)
            finally:
                county.close()

        def floor(kind: str = kind, values: _Batches = []) -> float:  # noqa: B006 - made once
            place = home / f"{kind}-{time.monotonic_ns()}"
            place.mkdir()
            url = places.empty(kind, folder, server)
            county = County(place, url)
            if not values:
                values += _values(county.store, answers)
            county.close()
            return _floor(url, values, count)

        value, least, ratio, spread = figures.pairs(ours, floor, pairs)
        about = {
            "events": f"{count} of reports filed, accepted, assigned and started, {size:.0f} bytes as packed",
            "batches": f"{len(answers)} of 512 KiB before packing",
            "floor": "the driver's executemany of the same values, made ready beforehand, without the steps",
            "database": places.DURABILITY[kind], "runs": f"{pairs} pairs in turn", "ratios": spread,
            "target": "at least 3,000/s on PostgreSQL, and 0.4", "load average": figures.load_average(),
        }  # fmt: skip
        yield figures.Figure(name, round(value), "events/s", round(least), round(ratio, 3), about)


def _ours(store: Store, answers: Sequence[link_pb2.PullLogResponse], count: int) -> float:
    store.grants.freeze(REGION)  # what is one's own is not copied
    copy = copies.Copies(store)
    begun = time.perf_counter()
    done = sum(copy.apply(REGION, NODE, answer) for answer in answers)
    taken = time.perf_counter() - begun
    assert done == count == copy.cursor(REGION).number, done
    return count / taken


def _values(store: Store, answers: Sequence[link_pb2.PullLogResponse]) -> _Batches:
    """What is written of each batch, as the driver takes it."""
    copy, found = copies.Copies(store), []
    for answer in answers:
        batch = copy._batch(REGION, answer, copies.unpacked(answer.rows))
        (records,) = batch.records.values()
        parts = (("reports", records), ("mesh_outbox", batch.outbox))
        found.append([(table, list(rows[0]), [tuple(r.values()) for r in rows]) for table, rows in parts])
    return found


def _floor(url: str, batches: _Batches, count: int) -> float:
    connection: Any
    if url.startswith("sqlite"):
        connection, mark = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None), "?"
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    else:
        connection, mark = (
            psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True),
            "%s",
        )
    cursor = connection.cursor()
    start = f"INSERT INTO mesh_cursor VALUES ({mark}, 'habitat', '360423', 1, 1, 0, 0, NULL, 0, '')"
    cursor.execute(start, (REGION,))
    upserts = {table: _upsert(table, columns, mark) for table, columns, _ in batches[0]}
    begun = time.perf_counter()
    for batch in batches:
        cursor.execute("BEGIN")
        for table, _, rows in batch:
            cursor.executemany(upserts[table], rows)
        cursor.execute(AT.format(mark, mark), (len(batch[-1][2]), REGION))
        cursor.execute("COMMIT")
    taken = time.perf_counter() - begun
    cursor.execute("SELECT number FROM mesh_cursor")
    assert cursor.fetchone() == (count,)
    connection.close()
    return count / taken


def _upsert(table: str, columns: list[str], mark: str) -> str:
    into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"
    if table == "mesh_outbox":
        return f"{into} ON CONFLICT (region, epoch, incarnation, number) DO NOTHING"
    changed = ", ".join(f"{c} = excluded.{c}" for c in columns if c != "name")
    return f"{into} ON CONFLICT (name) DO UPDATE SET {changed} WHERE {table}.version <= excluded.version"
