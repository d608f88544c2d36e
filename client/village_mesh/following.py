"""Following what a domain announces: a durable consumer, and an inbox in the program's own database, so that
what an event leads to happens once, whatever is killed and whatever comes twice."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import nats
import nats.errors
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from nats.js import api, errors

from village_mesh import contract

FETCH_S = 2.0
BATCH = 100
PAUSE_S = 1.0
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Event:
    """A fact, as it was announced."""

    id: str
    type: str
    """The payload's message, as in `village.habitat.v1.ReportFiled`."""
    source: str
    """Whose log it is in: `/regions/360423/habitat`."""
    subject: str
    """The record's name."""
    time: datetime.datetime
    epoch: int
    incarnation: int
    number: int
    """Its place in the log: 1, 2, 3 … within epoch and incarnation."""
    payload: bytes

    @property
    def message(self) -> Message | None:
        """The payload as a message of its generated class; None when this version does not know the type."""
        try:
            contract.load(self.type.rpartition(".")[0])
            found = descriptor_pool.Default().FindMessageTypeByName(self.type)
        except (ImportError, KeyError):
            return None
        return message_factory.GetMessageClass(found).FromString(self.payload)

    @classmethod
    def of(cls, headers: dict[str, str], payload: bytes) -> Event:
        """An event from what the broker delivers."""
        epoch, incarnation, number = map(int, headers["ce-sequence"].split("."))
        time = datetime.datetime.fromisoformat(headers["ce-time"])
        event, kind, source, subject = (headers[f"ce-{p}"] for p in ("id", "type", "source", "subject"))
        return cls(event, kind, source, subject, time, epoch, incarnation, number, payload)


@dataclasses.dataclass(frozen=True)
class Gap:
    """Events `first` to `last` of a log that did not come: they are older than what the broker keeps, or it
    lost them. Read the lists again."""

    source: str
    epoch: int
    incarnation: int
    first: int
    last: int


Effect = Callable[[Event, Any], None]
"""(event, cursor): what an event leads to, written through that cursor and nowhere else. It may be run again,
when what it wrote was rolled back."""
Missed = Callable[[Gap, Any], None]


class Inbox:
    """Which events were acted on, in two tables beside the program's own. `connection`: any DB-API connection
    that is not in autocommit; `name`: of the consumer; `mark`: how the driver writes a parameter, `%s` for
    PostgreSQL."""

    def __init__(self, connection: Any, name: str, *, mark: str = "?") -> None:
        each = isinstance(connection, sqlite3.Connection) and connection.isolation_level is None
        if each or getattr(connection, "autocommit", False) is True:
            raise ValueError("the connection commits each statement by itself")
        self.name, self._connection, self._mark = name, connection, mark
        cursor = connection.cursor()
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS village_inbox (inbox VARCHAR(200), event_id VARCHAR(64), "
            "time VARCHAR(40), PRIMARY KEY (inbox, event_id))"
        )
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS village_inbox_log (inbox VARCHAR(200), source VARCHAR(200), "
            "epoch INTEGER, incarnation INTEGER, number BIGINT, PRIMARY KEY (inbox, source))"
        )
        connection.commit()

    def take(self, events: Sequence[Event], effect: Effect, missed: Missed | None = None) -> int:
        """Acts on events, all in one transaction with the notes that it did; how many were new. `missed` is
        told in the same transaction what should have come earlier: for who follows a whole domain."""
        cursor = self._connection.cursor()
        try:
            new = [event for event in events if self._note(cursor, event, effect, missed)]
            self._connection.commit()
        except BaseException:
            self._connection.rollback()
            raise
        return len(new)

    def _note(self, cursor: Any, event: Event, effect: Effect, missed: Missed | None) -> bool:
        asked = "SELECT 1 FROM village_inbox WHERE inbox = ? AND event_id = ?"
        if self._run(cursor, asked, self.name, event.id).fetchall():
            return False
        time = event.time.astimezone(datetime.UTC).isoformat()
        self._run(cursor, "INSERT INTO village_inbox VALUES (?, ?, ?)", self.name, event.id, time)
        if missed is not None and (gap := self._follow(cursor, event)):
            missed(gap, cursor)
        effect(event, cursor)
        return True

    def forget(self, before: datetime.datetime) -> None:
        """Drops notes on events that happened before; the broker keeps none for longer than 30 days."""
        time = before.astimezone(datetime.UTC).isoformat()
        self._run(
            self._connection.cursor(),
            "DELETE FROM village_inbox WHERE inbox = ? AND time < ?",
            self.name,
            time,
        )
        self._connection.commit()

    def _run(self, cursor: Any, sql: str, *values: Any) -> Any:
        cursor.execute(sql.replace("?", self._mark), values)
        return cursor

    def _follow(self, cursor: Any, event: Event) -> Gap | None:
        asked = "SELECT epoch, incarnation, number FROM village_inbox_log WHERE inbox = ? AND source = ?"
        found = self._run(cursor, asked, self.name, event.source).fetchall()
        at, log_ = (event.epoch, event.incarnation), tuple(found[0][:2]) if found else ()
        last = found[0][2] if found and log_ == at else 0
        if (found and log_ > at) or event.number <= last:
            return None  # it is late: it counts, and is no gap
        self._run(
            cursor, "DELETE FROM village_inbox_log WHERE inbox = ? AND source = ?", self.name, event.source
        )
        self._run(
            cursor, "INSERT INTO village_inbox_log VALUES (?, ?, ?, ?, ?)",
            self.name, event.source, *at, event.number,
        )  # fmt: skip
        if event.number == last + 1:
            return None
        return Gap(event.source, *at, last + 1, event.number - 1)


async def follow(
    url: str,
    inbox: Inbox,
    effect: Effect,
    *,
    subject: str,
    missed: Missed | None = None,
    replay: bool = False,
    forever: bool = True,
    patience: float = 10.0,
) -> None:
    """Acts on every event on a subject, one after the other in their order, from the first that the broker
    keeps. `subject` names a domain, as in `village.36.04.23.habitat.report.*`; `missed` goes with all of it,
    `village.36.04.23.habitat.>`. `replay` goes through everything from the first once more, for a database
    that was restored from a backup. Without `forever` it returns when nothing waits. What an effect raises
    ends it, and the event comes again. `patience`: seconds that a hundred effects may take; who was ended in
    the middle of them waits so long before he goes on. Effects run in the event loop's own thread."""
    parts = subject.split(".")
    if len(parts) < 5 or parts[4] in ("*", ">"):
        raise ValueError(f"{subject!r} does not name a domain, as village.36.04.23.habitat.> does")
    if missed is not None and parts[5:] != [">"]:
        raise ValueError("only who follows a whole domain can tell what he missed")
    read = functools.partial(
        _read, act=lambda found: inbox.take(found, effect, missed), subject=subject, patience=patience
    )
    while True:
        try:
            client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=PAUSE_S)
            try:
                if replay:
                    await read(client, durable=None, forever=False)
                    replay = False
                return await read(client, durable=inbox.name, forever=forever)
            finally:
                await client.close()
        except (nats.errors.Error, errors.Error, OSError) as fault:
            if not forever:
                raise
            log.warning("the broker is away: %s: %s", type(fault).__name__, fault)
            await asyncio.sleep(PAUSE_S)


async def _read(
    client: Any, *, act: Callable[[Sequence[Event]], int], subject: str, durable: str | None, patience: float,
    forever: bool,
) -> None:  # fmt: skip
    """By a durable consumer, or by one that nobody remembers."""
    config = api.ConsumerConfig(
        ack_policy=api.AckPolicy.EXPLICIT, ack_wait=patience, max_ack_pending=BATCH, filter_subject=subject,
        inactive_threshold=None if durable else 60.0,
    )  # fmt: skip
    stream = f"EV_{subject.split('.')[4]}"
    js = client.jetstream()
    subscription = await js.pull_subscribe(subject, durable=durable, stream=stream, config=config)
    if (found := await subscription.consumer_info()).num_ack_pending:
        # in the hands of who was killed: what is given up comes before what is new, and so in its order
        await asyncio.sleep(found.config.ack_wait or patience)
    while True:
        try:
            messages = await subscription.fetch(BATCH, timeout=FETCH_S)
        except TimeoutError:
            if not forever and not (await subscription.consumer_info()).num_pending:
                return
            continue
        await _act(act, messages)


async def _act(act: Callable[[Sequence[Event]], int], messages: list[Any]) -> None:
    """Acts on all at once, or, where that fails, on one after the other up to the one that does."""
    found = [Event.of(dict(message.headers or {}), message.data) for message in messages]
    try:
        act(found)
    except Exception:
        for message, event in zip(messages, found, strict=True):
            act([event])
            await message.ack()
        return
    for message in messages:
        await message.ack()
