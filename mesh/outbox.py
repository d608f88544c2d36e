"""The relay: numbers committed outbox rows 1, 2, 3 … within their log and publishes them to the node's
broker, once. Numbers come first, so that a cursor can follow the log without missing a late commit."""

import asyncio
import contextlib
import datetime
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nats.errors
import sqlalchemy as sa
from nats.aio.client import Client

from mesh import bus, database, errors, events, metrics, resources, tables, telemetry
from mesh.ownership import Grant
from mesh.store import Store
from village.mesh.v1 import void_pb2

BATCH = 500
COUNTED = 100_000
"""Rows not numbered yet are counted up to here, because the count is asked for every few seconds."""
IDLE_S = 0.5
PAUSE_S = 0.2
KEPT = datetime.timedelta(seconds=bus.KEPT_S)
"""How long an event stays in the log at least; not less than in the broker, which may get it again."""
TRIMMED = 5_000
"""How many events are deleted in one transaction."""
log = logging.getLogger(__name__)


class Fenced(Exception):  # noqa: N818
    """Another relay has taken over this log."""


def _statement(text: str) -> Any:
    whole = ("epoch", "incarnation", "fence", "published", "numbered", "number", "batch", "after", "added")
    typed: list[Any] = [sa.bindparam(n, type_=sa.BigInteger) for n in whole if re.search(rf":{n}\b", text)]
    if ":why" in text:
        typed.append(sa.bindparam("why", type_=tables.TEXT))
    if ":kept" in text:
        typed.append(sa.bindparam("kept", type_=tables.INSTANT))
    return sa.text(text).bindparams(*typed)


class Log:
    """One log, (region, domain, epoch, incarnation), as this relay works on it."""

    def __init__(self, store: Store, grant: Grant) -> None:
        self._store, self.grant = store, grant
        self._key = {"region": grant.region, "epoch": grant.epoch, "incarnation": grant.incarnation}
        self._fence = 0
        self._saved = 0
        self.published = 0
        relay, outbox = store.plumbing.relay.name, store.plumbing.outbox.name
        log_ = "region = :region AND epoch = :epoch AND incarnation = :incarnation"
        self._sql = {
            "open": f"INSERT INTO {relay} (region, epoch, incarnation, fence, numbered, published) "
            "VALUES (:region, :epoch, :incarnation, 0, 0, 0) ON CONFLICT DO NOTHING",
            "fence": f"UPDATE {relay} SET fence = fence + 1 WHERE {log_} RETURNING fence, published",
            "hold": f"UPDATE {relay} SET published = :published WHERE {log_} AND fence = :fence "
            "RETURNING numbered",
            # in the order of the rows' ids: for one resource that is the order of its commits, because
            # its row was locked before the id was drawn
            "number": f"UPDATE {outbox} SET number = :numbered + n.place FROM (SELECT id AS picked, "
            f"row_number() OVER (ORDER BY id) AS place FROM (SELECT id FROM {outbox} WHERE number IS NULL "
            f"AND {log_} ORDER BY id LIMIT :batch) AS unnumbered) AS n WHERE id = n.picked",
            "numbered": f"UPDATE {relay} SET numbered = numbered + :added WHERE {log_}",
            "rows": f"SELECT event_id, type, subject, name, time, trace, audit_digest, payload, "
            f"void, number FROM {outbox} WHERE {log_} AND number > :after ORDER BY number LIMIT :batch",
            "void": f"UPDATE {outbox} SET void = :why WHERE {log_} AND number = :number",
            "first": f"SELECT min(number) FROM {outbox} WHERE {log_} AND time > :kept",
            "waiting": f"SELECT count(*) FROM (SELECT 1 FROM {outbox} WHERE number IS NULL AND {log_} "
            "LIMIT 1) AS waiting",
            "backlog": f"SELECT (SELECT count(*) FROM (SELECT 1 FROM {outbox} WHERE number IS NULL "
            f"AND {log_} LIMIT {COUNTED}) AS fresh) + "
            f"(SELECT coalesce(max(numbered - published), 0) FROM {relay} WHERE {log_})",
        }

    def _prepared(self, name: str) -> database.Sql:
        return self._store.database.prepare(("relay", name), lambda: _statement(self._sql[name]))

    def _run(self, cursor: Any, name: str, **more: int) -> Any:
        return self._store.database.run(cursor, self._prepared(name), {**self._key, **more})

    def open(self, cursor: Any) -> None:
        """Begins the log, if nobody has."""
        self._run(cursor, "open")

    def take_over(self) -> None:
        """Makes every other relay on this log stop at its next step."""

        def work(cursor: Any) -> Any:
            self.open(cursor)
            return self._run(cursor, "fence").fetchone()

        self._fence, self.published = self._store.database.transact(work)
        self._saved = self.published

    def rewind(self, now: datetime.datetime) -> None:
        """Starts publishing again at the first event that the broker would still keep."""
        kept = self._store.instant(now - datetime.timedelta(seconds=bus.KEPT_S))
        first = self._store.database.fetch(self._prepared("first"), {**self._key, "kept": kept})[0][0]
        self.published = min(self.published, (first or self.published + 1) - 1)

    def number(self) -> int:
        """Numbers what was committed, at most a batch, and saves how far was published. Fenced when
        another relay has taken over."""
        if self._saved == self.published and not self._waiting():
            return 0
        published = self.published

        def work(cursor: Any) -> int:
            row = self._run(cursor, "hold", fence=self._fence, published=published).fetchone()
            if row is None:
                raise Fenced
            added = int(self._run(cursor, "number", numbered=row[0], batch=BATCH).rowcount)
            if added:
                self._run(cursor, "numbered", added=added)
            return added

        added = self._store.database.transact(work)
        self._saved = published
        return added

    def _waiting(self) -> bool:
        return bool(self._store.database.fetch(self._prepared("waiting"), self._key)[0][0])

    def backlog(self) -> int:
        """Committed events that the broker has not confirmed."""
        return int(self._store.database.fetch(self._prepared("backlog"), self._key)[0][0])

    def rows(self, after: int) -> Sequence[Any]:
        """Numbered rows behind `after`, at most a batch."""
        return self._store.database.fetch(
            self._prepared("rows"), {**self._key, "after": after, "batch": BATCH}
        )

    def void(self, row: Any, why: str) -> Any:
        """Marks a row as one that cannot be published; the row as it is then."""
        values = {**self._key, "number": row[-1], "why": why}
        self._store.database.transact(
            lambda cursor: self._store.database.run(cursor, self._prepared("void"), values) and None
        )
        return (*row[:-2], why, row[-1])

    def message(self, row: Any) -> bus.Message:
        """A row as it is published."""
        event_id, kind, subject, name, time, trace, digest, payload, void, number = row
        grant = self.grant
        if void:
            payload = void_pb2.Void(type=kind, why=void).SerializeToString()
            kind = void_pb2.Void.DESCRIPTOR.full_name
        found = events.headers(
            event_id=event_id, kind=kind, region=grant.region, domain=grant.domain, name=name,
            time=resources.when(time), epoch=grant.epoch, incarnation=grant.incarnation, number=number,
            trace=trace, audit_digest=digest,
        )  # fmt: skip
        return subject, found, bytes(payload)


class Relay:
    """The relay of one domain. Runs in an event loop; the database is asked in threads."""

    def __init__(self, store: Store, url: str) -> None:
        self._store, self._url = store, url
        self.told: Callable[[], None] = lambda: None
        """Called when events of this node were published."""
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moved = False

    def wake(self) -> None:
        """Says, from any thread, that something was committed."""
        if self._loop is not None and not self._wake.is_set():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Publishes for ever; waits and goes on when the broker or the database is away."""
        self._loop = asyncio.get_running_loop()
        client = await bus.connect(self._url)
        pause = PAUSE_S
        try:
            while True:
                try:
                    await self._keep_publishing(client)
                except Exception as fault:  # whatever it is, what was committed must go out
                    about = {"domain": self._store.domain, "why": f"{type(fault).__name__}: {fault}"}
                    log.warning("the relay waits", extra={"about": about}, exc_info=not _expected(fault))
                pause = PAUSE_S if self._moved else min(pause * 2, 5.0)
                self._moved = False
                await asyncio.sleep(pause)
        finally:
            await client.close()

    async def _keep_publishing(self, client: Client) -> None:
        empty = await bus.ensure_stream(client, self._store.domain)
        held = self._store.grants.version, self._store.copied
        own = self._store.grants.all()
        others = await asyncio.to_thread(self._store.other_logs)
        logs = [Log(self._store, grant) for grant in (*own, *others)]
        for each in logs:
            await asyncio.to_thread(each.take_over)
            if empty:  # the broker lost everything: it gets it again
                await asyncio.to_thread(each.rewind, resources.utcnow())
        while True:
            self._wake.clear()
            moved = [await self._drain(client, each) for each in logs]
            self._moved = self._moved or any(moved)
            if any(moved[: len(own)]):
                self.told()
            if held != (self._store.grants.version, self._store.copied):
                self._moved = True
                return  # there are other logs by now
            if not any(moved):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE_S)

    async def _drain(self, client: Client, each: Log) -> bool:
        """Publishes what there is, the next batch being numbered and read meanwhile; whether there was
        any."""
        rows = await asyncio.to_thread(self._next, each, each.published)
        moved = bool(rows)
        while rows:
            ahead = asyncio.ensure_future(asyncio.to_thread(self._next, each, rows[-1][-1]))
            try:
                await self._publish(client, each, rows)
            except BaseException:
                with contextlib.suppress(Exception):
                    await ahead
                raise
            each.published = rows[-1][-1]
            telemetry.happened("publish", (row[5] for row in rows))
            metrics.published.labels(each.grant.domain).inc(len(rows))
            rows = await ahead
        return moved

    async def _publish(self, client: Client, each: Log, rows: Sequence[Any]) -> None:
        """Publishes rows. One that the broker cannot take, whatever is tried, would hold up all behind it:
        a void takes its place."""
        if self._store.cramped():
            raise errors.DiskFull(what="the broker")
        try:
            await bus.publish(client, [each.message(row) for row in rows])
        except nats.errors.MaxPayloadError:
            for row in rows:
                try:
                    await bus.publish(client, [each.message(row)])
                except nats.errors.MaxPayloadError:
                    about = {"domain": each.grant.domain, "event": row[0], "type": row[1]}
                    log.error("an event is too large for the broker", extra={"about": about})
                    metrics.voided.labels(each.grant.domain).inc()
                    empty = await asyncio.to_thread(each.void, row, "TOO_LARGE")
                    await bus.publish(client, [each.message(empty)])

    def _next(self, each: Log, after: int) -> Sequence[Any]:
        each.number()
        return each.rows(after)


def begin(store: Store, region: str) -> None:
    """Begins the log of a region that was granted a moment ago, if the relay has not: of a log that nobody
    began a copy never hears that it is empty."""
    row = store.grants.row(region)
    log_ = Log(store, Grant(region, store.domain, row.epoch, row.incarnation))
    store.database.transact(log_.open)


def last_number(store: Store, region: str, epoch: int, incarnation: int) -> int:
    """The number that the last event of a frozen region has, or will have when it is numbered."""
    o, r = store.plumbing.outbox, store.plumbing.relay
    mine = (o.c.region == region, o.c.epoch == epoch, o.c.incarnation == incarnation, o.c.number.is_(None))
    log_ = (r.c.region == region, r.c.epoch == epoch, r.c.incarnation == incarnation)
    numbered = sa.select(r.c.numbered).where(*log_).scalar_subquery()
    waiting = sa.select(sa.func.count()).select_from(o).where(*mine).scalar_subquery()
    return int(store.database.select(sa.select(sa.func.coalesce(numbered, 0) + waiting))[0][0])


def trim(
    store: Store, now: datetime.datetime, confirmed: Mapping[tuple[str, int, int], int] | None = None
) -> int:
    """Deletes events that the broker has and that are older than KEPT, from the beginning of each log; how
    many. `confirmed`: by (region, epoch, incarnation) the number up to which everybody else has them; of a
    log that it does not name the broker alone counts."""
    relay, outbox = store.plumbing.relay, store.plumbing.outbox.name
    sql = store.database.prepare(
        ("relay", "trim"),
        lambda: _statement(
            f"DELETE FROM {outbox} WHERE id IN (SELECT id FROM (SELECT id, time FROM {outbox} "
            "WHERE region = :region AND epoch = :epoch AND incarnation = :incarnation AND number <= :number "
            "ORDER BY number LIMIT :batch) AS first WHERE time < :kept)"
        ),
    )
    count, kept = 0, store.instant(now - KEPT)
    logs = sa.select(relay.c.region, relay.c.epoch, relay.c.incarnation, relay.c.published)
    for *log_, published in store.database.select(logs):
        region, epoch, incarnation = log_
        number = min(published, (confirmed or {}).get((region, epoch, incarnation), published))
        values = {"region": region, "epoch": epoch, "incarnation": incarnation, "number": number,
                  "batch": TRIMMED, "kept": kept}  # fmt: skip
        while gone := store.database.transact(functools.partial(_delete, store.database, sql, values)):
            count += gone
    return count


def _delete(database_: database.Database, sql: database.Sql, values: dict[str, Any], cursor: Any) -> int:
    return int(database_.run(cursor, sql, values).rowcount)


def _expected(fault: Exception) -> bool:
    """Whether this is the broker, the database or another relay, rather than a mistake of ours."""
    return isinstance(
        fault, errors.Refusal | nats.errors.Error | bus.Rejected | OSError | TimeoutError | Fenced
    )
