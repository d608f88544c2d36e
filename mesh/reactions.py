"""What a domain does about events, of its own or another domain: a durable consumer per reaction, the effect
and a note that the event was acted on in one commit, back-off, and dead letters (死信). Separate from calls,
because nobody waits for it."""

import asyncio
import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any

import nats.errors
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.js import errors as js_errors

from mesh import bus, calls, contract, database, errors, events, metrics, resources, statements, telemetry
from mesh.store import Store
from village.mesh.v1 import dead_letter_pb2 as pb
from village.mesh.v1.dead_letter_pb2 import DeadLetter

BATCH = 100
FETCH_S = 5.0
LATE = datetime.timedelta(minutes=1)
ATTEMPTS = 6
PAUSES_S = (1.0, 5.0, 30.0, 120.0, 600.0)
KEPT = datetime.timedelta(days=45)
"""How long it is remembered that an event was acted on: longer than any stream keeps it."""
log = logging.getLogger(__name__)


class DeadLetterSettled(errors.Refused):
    """It was replayed or dropped before."""

    en = "{name} was settled before"
    zh = "该死信已处理"


@dataclasses.dataclass(frozen=True)
class Reaction:
    """What is done about events on a subject, as in `village.*.*.*.habitat.report.filed`. The handler gets
    the event's message and changes its own domain's records; it may run again on a fresh call."""

    name: str
    subject: str
    handler: Callable[[Any, calls.Call], None]


@dataclasses.dataclass(frozen=True)
class Event:
    """An event as it came."""

    subject: str
    headers: dict[str, str]
    payload: bytes

    @property
    def id(self) -> str:
        return self.headers.get("ce-id", "")

    @property
    def time(self) -> datetime.datetime:
        """When it happened; long ago when it does not say."""
        try:
            return datetime.datetime.fromisoformat(self.headers["ce-time"])
        except (KeyError, ValueError):
            return resources.EPOCH

    def message(self) -> Message:
        """ValueError when its type is not known here."""
        found = events.decode(self.headers.get("ce-type", ""), self.payload)
        if found is None:
            raise ValueError(f"unknown type {self.headers.get('ce-type', '')!r}")
        return found


class Reactor:
    """Runs one domain's reactions."""

    def __init__(
        self,
        store: Store,
        url: str,
        region: str,
        published: Callable[[], None],
        clock: Callable[[], datetime.datetime] = resources.utcnow,
    ) -> None:
        self._store, self._url, self._region, self._published = store, url, region, published
        self._clock = clock
        self._tried: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Reacts for ever; waits and goes on when the broker or the database is away."""
        client = await bus.connect(self._url)
        try:
            await asyncio.gather(*(self._run_one(client, r) for r in self._store.reactions.values()))
        finally:
            await client.close()

    async def _run_one(self, client: Client, reaction: Reaction) -> None:
        pause = PAUSES_S[0]
        while True:
            try:
                subscription = await bus.consumer(
                    client, reaction.subject, f"{self._store.domain}_{reaction.name}"
                )
                while True:
                    waiting = 0
                    with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
                        messages = await subscription.fetch(BATCH, timeout=FETCH_S)
                        waiting = messages[-1].metadata.num_pending
                        await self._take(reaction, messages)
                        pause = PAUSES_S[0]
                    metrics.lag.labels(reaction.name).set(waiting)
            except (errors.Refusal, nats.errors.Error, js_errors.Error, OSError) as fault:
                about = {"reaction": reaction.name, "why": f"{type(fault).__name__}: {fault}"}
                log.warning("a reaction waits", extra={"about": about})
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSES_S[2])

    async def _take(self, reaction: Reaction, messages: Sequence[Any]) -> None:
        """Acts on what was fetched: all in one commit, or, when that is refused, each by itself."""
        found = [Event(m.subject, dict(m.headers or {}), m.data) for m in messages]
        if await asyncio.to_thread(self._together, reaction, found):
            for message in messages:
                await message.ack()
            return
        for message, event in zip(messages, found, strict=True):
            pause = await asyncio.to_thread(self._alone, reaction, event)
            await (message.ack() if pause is None else message.nak(delay=pause))

    def _together(self, reaction: Reaction, found: Sequence[Event]) -> bool:
        try:
            react(self._store, reaction, found, self._clock(), self._region)
        except errors.Unavailable:
            raise
        except Exception:
            return False
        self._published()
        return True

    def _alone(self, reaction: Reaction, event: Event) -> float | None:
        """None when the event is done with; else in how many seconds it comes again."""
        key = (reaction.name, event.id)
        try:
            react(self._store, reaction, [event], self._clock(), self._region)
        except errors.Unavailable:
            raise
        except Exception as fault:
            if acted(self._store, reaction, event):
                return None
            metrics.reacted.labels(reaction.name, "failed").inc()
            tries = self._tried[key] = self._tried.get(key, 0) + 1
            if tries < ATTEMPTS:
                return PAUSES_S[tries - 1]
            why = fault.reason if isinstance(fault, errors.Refusal) else type(fault).__name__
            log.warning("an event is given up", extra={"about": {"reaction": reaction.name, "id": event.id,
                                                                 "why": why}})  # fmt: skip
            self._bury(reaction, event, why, tries)
            metrics.reacted.labels(reaction.name, "given_up").inc()
        self._tried.pop(key, None)
        self._published()
        return None

    def _bury(self, reaction: Reaction, event: Event, why: str, tries: int) -> None:
        call = calls.own(self._store, "keep_dead_letter", self._clock(), self._region)
        set_aside(call, reaction.name, event, why, tries)
        call.changes.add(_note(self._store, reaction, event, call.now))
        commit = call.changes.commit()
        with contextlib.suppress(database.Taken):  # another process of ours was first
            self._store.commit(commit)  # type: ignore[arg-type]


def set_aside(call: calls.Call, reaction: str, event: Event, why: str, tries: int = 1) -> None:
    """Keeps an event as a dead letter, unless it is kept."""
    letter = DeadLetter(
        reaction=reaction, why=why, attempts=tries, fail_time=resources.stamp(call.now),
        subject=event.subject, payload=event.payload,
        headers=[DeadLetter.Header(key=k, value=v) for k, v in event.headers.items()],
    )  # fmt: skip
    parent, wanted = f"regions/{call.region}", f"{event.id}-{reaction}".lower()
    if call.find(DeadLetter, f"{parent}/deadLetters/{wanted}") is None:
        call.create(letter, parent=parent, event=pb.DeadLetterKept, wanted=wanted)


def react(
    store: Store, reaction: Reaction, found: Sequence[Event], now: datetime.datetime, region: str
) -> None:
    """Acts on events in one commit. Raises what a handler raises, or `Taken` when one was acted on
    before. One event that comes soon is traced as a part of what led to it, others by links."""
    traces = [t for event in found if (t := event.headers.get("traceparent", ""))]
    soon = len(found) == 1 and now - found[0].time < LATE
    span = telemetry.Span(reaction.name, traces[0] if soon and traces else "", () if soon else traces)
    code = "FAILED"
    try:
        _react(store, reaction, found, now, region, trace=span.traceparent)
        code = "OK"
    finally:
        span.end(code)


def _react(
    store: Store,
    reaction: Reaction,
    found: Sequence[Event],
    now: datetime.datetime,
    region: str,
    *,
    trace: str,
) -> None:
    call = calls.own(store, reaction.name, now, region, trace=trace)
    for event in found:
        reaction.handler(event.message(), call)
    notes = [_note(store, reaction, event, now) for event in found]
    commit = call.changes.commit(*notes)
    assert commit is not None
    store.commit(commit)
    metrics.reacted.labels(reaction.name, "done").inc(len(found))


def acted(store: Store, reaction: Reaction, event: Event) -> bool:
    """Whether the domain acted on an event."""
    return bool(
        store.lookup(store.plumbing.inbox, reaction=reaction.name, event_id=event.id)
    )  # fmt: skip


def _note(store: Store, reaction: Reaction, event: Event, now: datetime.datetime) -> statements.Write:
    row = {"reaction": reaction.name, "event_id": event.id, "time": store.instant(now)}
    return statements.Write(store.plumbing.inbox, row)


def forget(store: Store, now: datetime.datetime) -> None:
    """Drops notes on events that no stream keeps any more."""
    store.forget(store.plumbing.inbox, now - KEPT)


# handlers


def get_dead_letter(request: pb.GetDeadLetterRequest, call: calls.Call) -> DeadLetter:
    return call.load(DeadLetter, request.name)


def list_dead_letters(request: pb.ListDeadLettersRequest, call: calls.Call) -> pb.ListDeadLettersResponse:
    return call.page(DeadLetter, request, pb.ListDeadLettersResponse)


def replay_dead_letter(request: pb.ReplayDeadLetterRequest, call: calls.Call) -> DeadLetter:
    """The effect and the settling are one commit; a handler that fails again leaves the letter as it is."""
    letter = _unsettled(request.name, call)
    reaction = call.store.reactions.get(letter.reaction)
    if reaction is None:
        raise errors.NotFound(name=f"reaction {letter.reaction}")
    event = Event(letter.subject, {h.key: h.value for h in letter.headers}, letter.payload)
    reaction.handler(event.message(), call.as_system(contract.internal(reaction.name)))
    letter.settled = True
    return call.save(letter, pb.DeadLetterReplayed)


def drop_dead_letter(request: pb.DropDeadLetterRequest, call: calls.Call) -> DeadLetter:
    letter = _unsettled(request.name, call)
    letter.settled = True
    return call.save(letter, pb.DeadLetterDropped)


def _unsettled(name: str, call: calls.Call) -> DeadLetter:
    letter = call.load(DeadLetter, name)
    if letter.settled:
        raise DeadLetterSettled(name=name)
    return letter


HANDLERS = {
    "GetDeadLetter": get_dead_letter,
    "ListDeadLetters": list_dead_letters,
    "ReplayDeadLetter": replay_dead_letter,
    "DropDeadLetter": drop_dead_letter,
}
