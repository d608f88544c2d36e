"""The receiving side: rows pulled from another node become this node's copy of its records, its own
republication of their events, and a cursor, in one commit. Separate from `replication`, which hands them
out."""

import dataclasses
import hashlib
import logging
import zlib
from typing import Any

import sqlalchemy as sa
from google.protobuf.message import DecodeError, Message
from sqlalchemy.dialects import postgresql, sqlite

from mesh import contract, database, events, metrics, regions, replication, resources, statements, tables
from mesh.store import Store
from village.mesh.v1 import link_pb2 as pb

UNPACKED, MANY = 8 * 1024 * 1024, 100
"""MANY: so many rows PostgreSQL takes sooner by COPY than by a statement for each."""
log = logging.getLogger(__name__)


class BadBatch(Exception):  # noqa: N818 - an answer, not a fault
    """What another node sent does not fit what is here: the batch is refused whole, and asked for again."""


@dataclasses.dataclass(frozen=True)
class Cursor:
    """How far the log of a region is copied."""

    epoch: int = 0
    incarnation: int = 0
    number: int = 0
    high_water: int = 0


@dataclasses.dataclass
class _Batch:
    """A batch as it is written."""

    outbox: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    last: dict[str, dict[str, tuple[Any, int, bytes]]] = dataclasses.field(default_factory=dict)
    """By kind and name the last of each record: message, version and bytes."""
    records: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """The same by kind as rows."""
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    refused: int = 0


class Copies:
    """The copies that one domain's database holds of other nodes' records."""

    def __init__(self, store: Store) -> None:
        self._store, self._table = store, store.plumbing.cursor
        self._unwritable = ValueError, OverflowError, database.Taken, store.database.bad_value

    def cursor(self, region: str) -> Cursor:
        """Where the copy of a region stands."""
        found = self._store.lookup(self._table, region=region, domain=self._store.domain)
        if found is None:
            return Cursor()
        return Cursor(found["epoch"], found["incarnation"], found["number"], found["high_water"])

    def apply(self, region: str, node: str, answer: pb.PullLogResponse) -> int:
        """Writes a batch; how many rows it had. BadBatch when it does not follow the cursor."""
        at = self.cursor(region)
        place = (answer.epoch, answer.incarnation)
        if place < (at.epoch, at.incarnation):
            raise BadBatch(f"epoch {answer.epoch}.{answer.incarnation} is behind {at.epoch}.{at.incarnation}")
        before = at.number if place == (at.epoch, at.incarnation) else 0
        rows = unpacked(answer.rows)
        follow(rows, before)
        self._apply(region, node, answer, rows, at=at)
        if place != (at.epoch, at.incarnation):
            self._store.copied += 1
        if rows:
            metrics.copied.labels(self._store.domain).inc(len(rows))
        return len(rows)

    def _apply(
        self, region: str, node: str, answer: pb.PullLogResponse, rows: list[pb.LogRow], *, at: Cursor
    ) -> Cursor:
        """Writes rows that follow a cursor; the cursor then. A row that cannot be written, whatever is tried,
        would hold up all behind it: it is looked for by halves, and refused by itself."""
        try:
            return self._commit(region, node, answer, rows, at=at)
        except self._unwritable as fault:
            if not rows:
                raise
            if len(rows) == 1:
                about = {"region": region, "number": rows[0].number, "why": repr(fault)}
                log.warning("an event cannot be written", extra={"about": about})
                bare, why = [_bare(rows[0], answer)], "MALFORMED"
                if isinstance(fault, database.Taken):  # a rule of this node's that its owner's does not have
                    why = "BREAKS_RULE"
                return self._commit(region, node, answer, bare, at=at, spoilt=why)
        half = len(rows) // 2
        at = self._apply(region, node, answer, rows[:half], at=at)
        return self._apply(region, node, answer, rows[half:], at=at)

    def _commit(
        self, region: str, node: str, answer: pb.PullLogResponse, rows: list[pb.LogRow], *, at: Cursor,
        spoilt: str = "",
    ) -> Cursor:  # fmt: skip
        before = at.number if (answer.epoch, answer.incarnation) == (at.epoch, at.incarnation) else 0
        last = rows[-1].number if rows else before
        now = Cursor(answer.epoch, answer.incarnation, last, answer.high_water)
        batch = self._batch(region, answer, rows, spoilt)
        values = {**dataclasses.asdict(now), "region": region, "domain": self._store.domain, "node": node,
                  "trouble": ""}  # fmt: skip
        if last >= answer.high_water:
            values["read_time"] = self._store.instant(resources.moment(answer.read_time))
        self._store.database.transact(lambda cursor: self._write(cursor, at, values, batch))
        if batch.refused:
            metrics.refused_rows.labels(self._store.domain).inc(batch.refused)
        return now

    def note(self, region: str, node: str, why: str) -> None:
        """Says in the cursor what keeps a copy from going on; `status` shows it."""
        if self._store.grants.owned(region):
            return
        at = self.cursor(region)
        values = {**dataclasses.asdict(at), "region": region, "domain": self._store.domain, "node": node,
                  "trouble": why[:500]}  # fmt: skip
        self._store.database.transact(lambda cursor: self._write(cursor, at, values, _Batch()))

    def follow_from(self, region: str, epoch: int) -> None:
        """Never again asks for a log of before that epoch: what a former owner has added to it since the pair
        was taken over is not applied."""
        t = self._table
        mine = (t.c.region == region, t.c.domain == self._store.domain, t.c.epoch < epoch)
        begin = {"epoch": epoch, "incarnation": 1, "number": 0, "high_water": 0}
        self._store.database.change(t.update().where(*mine).values(begin))

    def _write(self, cursor: Any, at: Cursor, values: dict[str, Any], batch: _Batch) -> None:
        store = self._store
        if store.database.run(cursor, store.database.prepare("mine", self._mine), values).fetchall():
            raise BadBatch("this node is the owner")
        for kind, rows in batch.records.items():
            met = self._many(cursor, store.codecs[kind].table, rows, keys=("name",), newer=True)
            batch.refused += len(rows) - met  # what is here is a later version
        if not self._move(cursor, at, {**values, "refused": batch.refused}):
            raise BadBatch("somebody else moved the cursor")
        if batch.outbox:
            self._many(
                cursor, store.plumbing.outbox, batch.outbox, keys=("region", "epoch", "incarnation", "number")
            )
        if batch.outbox or (values["epoch"], values["incarnation"]) != (at.epoch, at.incarnation):
            # of a log without an event too: the relay looks for new logs when one begins
            sql = store.database.prepare("copied up to", lambda: _numbered(store.plumbing.relay))
            told = {k: values[k] for k in ("region", "epoch", "incarnation", "number")}
            store.database.run(cursor, sql, told)
        if batch.steps:
            self._many(cursor, store.plumbing.step, batch.steps, keys=("name", "number"))

    def _mine(self) -> Any:
        """Whether the region has become this node's own since the batch was asked for."""
        t = self._store.plumbing.ownership
        region, domain = (sa.bindparam(k, type_=tables.TEXT) for k in ("region", "domain"))
        return sa.select(t.c.epoch).where(t.c.region == region, t.c.domain == domain, t.c.frozen.is_(False))

    def _move(self, cursor: Any, at: Cursor, values: dict[str, Any]) -> bool:
        """Moves the cursor on if it is still where it was read."""
        db, t = self._store.database, self._table
        if at == Cursor():
            names = (*values, *(("read_time",) if "read_time" not in values else ()))
            row = {name: values.get(name) for name in names}
            made = self._many(cursor, t, [row], keys=("region", "domain"))
            if made:
                return True
        was = {"was_epoch": at.epoch, "was_incarnation": at.incarnation, "was_number": at.number}

        def build() -> Any:
            given: dict[str, Any] = {k: sa.bindparam(k, type_=t.c[k].type) for k in values}
            given["refused"] = t.c.refused + given["refused"]
            return (
                t.update()
                .where(t.c.region == sa.bindparam("of_region", type_=tables.TEXT))
                .where(t.c.domain == sa.bindparam("of_domain", type_=tables.TEXT))
                .where(t.c.epoch == sa.bindparam("was_epoch", type_=sa.Integer))
                .where(t.c.incarnation == sa.bindparam("was_incarnation", type_=sa.Integer))
                .where(t.c.number == sa.bindparam("was_number", type_=sa.BigInteger))
                .values(given)
            )

        sql = db.prepare(("move", *sorted(values)), build)
        of = {"of_region": values["region"], "of_domain": values["domain"]}
        return bool(db.run(cursor, sql, {**values, **was, **of}).rowcount)

    def _many(
        self,
        cursor: Any,
        table: sa.Table,
        rows: list[dict[str, Any]],
        *,
        keys: tuple[str, ...],
        newer: bool = False,
    ) -> int:
        """Adds rows; one that is there already stays, or with `newer` gives way to the same or a later
        version."""
        names, db = tuple(rows[0]), self._store.database
        many = not db.sqlite and len(rows) >= MANY
        brought = sa.table(f"brought_{table.name}", *(sa.column(k) for k in names))

        def build() -> Any:
            insert: Any = (sqlite if db.sqlite else postgresql).insert(table)
            # parameters of the columns' own names
            made = (
                insert.from_select(names, sa.select(brought)) if many else insert.values(dict.fromkeys(names))
            )
            if not newer:
                return made.on_conflict_do_nothing(index_elements=list(keys))
            return made.on_conflict_do_update(
                index_elements=list(keys), set_={k: made.excluded[k] for k in names if k not in keys},
                where=table.c.version <= made.excluded.version,
            )  # fmt: skip

        sql = db.prepare(("copy", table.name, newer, names, many), build, many=True)
        if not many:
            return db.run_many(cursor, sql, rows)
        statements.bring(cursor, brought.name, table.name, rows)
        return int(db.run(cursor, sql, {}).rowcount)

    def _batch(
        self, region: str, answer: pb.PullLogResponse, rows: list[pb.LogRow], spoilt: str = ""
    ) -> _Batch:
        """What rows are written as; with `spoilt`, which says why, nothing of them but themselves."""
        batch, store = _Batch(), self._store
        begins = f"village.{regions.tokens(region)}.{store.domain}."
        known = dict(replication.rising(store))
        named = f"regions/{region}/"
        for row in rows:
            why, name, payload, subject = row.void, row.name, row.payload, row.subject
            if not why:
                if not subject.startswith(begins) or not name.startswith(named):
                    why = "FOREIGN"  # it speaks of what is not its sender's
                else:
                    why = spoilt or self._take(batch, row.type, name, payload, known)
                batch.refused += bool(why)
                if why:
                    about = {"region": region, "number": row.number, "type": row.type, "why": why}
                    log.error("an event of another node is refused", extra={"about": about})
            batch.outbox.append(
                {
                    "region": region, "epoch": answer.epoch, "incarnation": answer.incarnation,
                    "number": row.number, "event_id": row.event_id, "type": row.type,
                    "subject": subject if subject.startswith(begins) else f"{begins}void.refused",
                    "name": name, "time": resources.stamped(row.time, sqlite=store.sqlite),
                    "trace": row.trace, "audit_digest": row.audit_digest, "payload": payload,
                    "void": why or None,
                }
            )  # fmt: skip
        for kind, last in batch.last.items():
            # by name: neighbours in the index, and locks in one order
            batch.records[kind] = [self.row(known[kind], *record) for _, record in sorted(last.items())]
        return batch

    def _take(
        self, batch: _Batch, kind: str, name: str, payload: bytes, known: dict[str, resources.Codec]
    ) -> str:
        """Takes the record that an event carries; why it cannot, or empty. An event of a newer contract is
        passed on and kept, and what this node knows of it is copied."""
        cls = events.class_of(kind)
        if cls is None:
            return ""
        try:
            event: Any = cls.FromString(payload)
            described = contract.read_event(cls)
            raw = _first_field(payload)
            message = getattr(event, described.field)
            version = int(message.etag or "0")
        except (DecodeError, ValueError, contract.BadContract):
            return "MALFORMED"
        codec = known.get(described.resource)
        if codec is None:
            return ""
        if message.name != name or codec.resource.pattern.match(name) is None:
            return "MALFORMED"
        last = batch.last.setdefault(described.resource, {})
        before = last.get(name)
        if before is not None and before[1] > version:
            return "BACKWARDS"
        last[name] = message, version, raw
        if "step" in cls.DESCRIPTOR.fields_by_name and event.HasField("step"):
            batch.steps.append(self._store.step_values(name, event.step))
        return ""

    @staticmethod
    def row(codec: resources.Codec, message: Message, version: int, raw: bytes) -> dict[str, Any]:
        """A copied record as a row. Nothing rings on it: its limits are its owner's."""
        name = message.name  # type: ignore[attr-defined]
        found = codec.encode(message)
        found.update(
            name=name, region=resources.region_in(name), version=version, owner="", alarm_time=None,
            digest=hashlib.sha256(raw).hexdigest(),
        )  # fmt: skip
        return found

    def mend(self, codec: resources.Codec, region: str, raws: list[bytes]) -> set[str]:
        """Puts records as their owner sent them in the place of what is here, whatever its version; their
        names. What is not of that region and kind, or cannot be written here, is left out."""
        try:
            return self._mend(codec, region, raws)
        except self._unwritable as fault:
            if len(raws) == 1:
                about = {"region": region, "kind": codec.resource.singular, "why": repr(fault)}
                log.warning("a record cannot be written", extra={"about": about})
                return set()
        half = len(raws) // 2
        return self.mend(codec, region, raws[:half]) | self.mend(codec, region, raws[half:])

    def _mend(self, codec: resources.Codec, region: str, raws: list[bytes]) -> set[str]:
        rows = []
        for raw in raws:
            message: Any = codec.resource.cls.FromString(raw)
            if codec.resource.pattern.match(message.name) and resources.region_in(message.name) == region:
                rows.append(self.row(codec, message, int(message.etag or "0"), raw))
        names = [row["name"] for row in rows]
        self.drop(codec, region, names)
        if rows:
            self._store.database.transact(
                lambda cursor: self._many(cursor, codec.table, rows, keys=("name",)) and None
            )
        return set(names)

    def drop(self, codec: resources.Codec, region: str, names: list[str]) -> None:
        """Removes copies of what their owner does not have, or has otherwise. Never of a region that is this
        node's own."""
        if names and not self._store.grants.owned(region):
            t = codec.table
            self._store.database.change(t.delete().where(t.c.region == region, t.c.name.in_(names)))

    def jump(self, region: str, node: str, answer: pb.PullLogResponse) -> None:
        """Moves the cursor to the beginning of what the owner still has: what was before was compared."""
        at = self.cursor(region)
        values = {**dataclasses.asdict(at), "epoch": answer.epoch, "incarnation": answer.incarnation,
                  "number": max(answer.floor - 1, 0), "region": region, "domain": self._store.domain,
                  "high_water": answer.high_water, "node": node, "trouble": ""}  # fmt: skip
        self._store.database.transact(lambda cursor: self._write(cursor, at, values, _Batch()))
        self._store.copied += 1


def unpacked(raw: bytes) -> list[pb.LogRow]:
    """The rows of a batch. BadBatch when they cannot be read, or would be larger than a batch may be."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(raw, UNPACKED + 1) if raw else b""
        if len(data) > UNPACKED:
            raise BadBatch("the batch is larger than it may be")
        if raw and (not unpacker.eof or unpacker.unused_data):
            raise BadBatch("the batch breaks off, or something follows it")
        return list(pb.LogRows.FromString(data).rows)
    except (zlib.error, DecodeError) as fault:
        raise BadBatch(f"the batch cannot be read: {fault}") from fault


def follow(rows: list[pb.LogRow], before: int) -> None:
    """BadBatch unless the rows are numbered on from `before`, none missing and none twice."""
    for expected, row in enumerate(rows, before + 1):
        if row.number != expected:
            raise BadBatch(f"number {row.number} where {expected} belongs")


def _bare(row: pb.LogRow, answer: pb.PullLogResponse) -> pb.LogRow:
    """A row as any database takes it, for one that could not be written."""
    found = pb.LogRow(number=row.number, payload=row.payload, time=answer.read_time)
    for name in ("event_id", "type", "subject", "name", "trace", "audit_digest"):
        setattr(found, name, getattr(row, name).replace("\0", ""))
    return found


def _first_field(payload: bytes) -> bytes:
    """The bytes of a message's first field, as they were sent: its digest is over them."""
    if payload[:1] != b"\x0a":
        raise ValueError("the event carries no record")
    size, shift, at = 0, 0, 1
    while True:
        size |= (payload[at] & 0x7F) << shift
        at += 1
        if payload[at - 1] < 0x80:
            return payload[at : at + size]
        shift += 7


def _numbered(relay: sa.Table) -> Any:
    """The relay's note of a log that was numbered elsewhere; never back: a former owner's may be longer."""
    big = sa.BigInteger
    return sa.text(
        f"INSERT INTO {relay.name} (region, epoch, incarnation, fence, numbered, published) "
        "VALUES (:region, :epoch, :incarnation, 0, :number, 0) "
        "ON CONFLICT (region, epoch, incarnation) DO UPDATE SET numbered = excluded.numbered "
        f"WHERE {relay.name}.numbered < excluded.numbered"
    ).bindparams(
        sa.bindparam("region", type_=tables.TEXT), sa.bindparam("epoch", type_=sa.Integer),
        sa.bindparam("incarnation", type_=sa.Integer), sa.bindparam("number", type_=big),
    )  # fmt: skip
