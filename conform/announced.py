"""What a domain announces: a subscriber at the broker while the run writes, and a look at what it heard.
It needs to read only."""

import asyncio
import contextlib
import datetime
import re
import threading
import time
import uuid
from typing import Any

import nats
from google.protobuf import message_factory
from google.protobuf.message import DecodeError, Message

from conform import personal
from conform.declared import Domain, Event
from conform.notes import Notes
from village.options.v1 import options_pb2

WAIT_S = 10.0
QUIET_S, POLL_S = 0.3, 0.02
_ABOUT = ("name", "etag")
_RISING = (options_pb2.RISES_FULL, options_pb2.RISES_MASKED)
Heard = tuple[str, dict[str, str], bytes]
"""Subject, headers and payload."""


class NoBroker(Exception):  # noqa: N818
    """The broker cannot be listened at; the text says why."""


class Listener:
    """Hears everything of a domain of a region, from when it is opened."""

    def __init__(self, url: str, region: str, domain: str) -> None:
        self.heard: list[Heard] = []
        self._subject = f"village.{region[:2]}.{region[2:4]}.{region[4:6]}.{domain}.>"
        self._url, self._stop, self._ready = url, threading.Event(), threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        self._ready.wait(WAIT_S)
        if self._fault is not None or not self._ready.is_set():
            self._stop.set()
            raise NoBroker(f"the broker cannot be listened at: {self._fault or 'it does not answer'}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)

    async def _listen(self) -> None:
        try:
            client = await nats.connect(
                self._url, connect_timeout=5, max_reconnect_attempts=3, error_cb=_quiet
            )
            await client.subscribe(self._subject, cb=self._hear)
            await client.flush()
        except Exception as fault:  # whatever the library says, it is for the person who runs this
            self._fault = fault
            self._ready.set()
            return
        self._ready.set()
        while not self._stop.is_set():
            await asyncio.sleep(POLL_S)
        await client.close()

    async def _hear(self, message: Any) -> None:
        self.heard.append((message.subject, dict(message.headers or {}), message.data))

    def wait(self, names: set[str]) -> None:
        """Until all of these records were heard of and nothing more comes, or time is up."""
        until = time.monotonic() + WAIT_S
        while names - {headers.get("ce-subject", "") for _, headers, _ in self.heard}:
            if time.monotonic() > until:
                return
            time.sleep(POLL_S)
        count = -1
        while count != len(self.heard) and time.monotonic() < until:
            count = len(self.heard)
            time.sleep(QUIET_S)


async def _quiet(_fault: Exception) -> None:
    """A lost connection shows in what is not heard."""


def expected(domain: Domain, created: dict[str, list[Any]]) -> set[str]:
    """Names of records that the domain has to announce."""
    announced = {e.resource.descriptor.full_name for e in domain.events.values() if e.resource is not None}
    found = set()
    for records in created.values():
        for record in records:
            resource = domain.resources.get(record.DESCRIPTOR.full_name)
            if (
                resource is not None
                and resource.rises in _RISING
                and resource.descriptor.full_name in announced
            ):
                found.add(record.name)
    return found


def check(domain: Domain, notes: Notes, heard: list[Heard], wanted: set[str]) -> None:
    """Looks at everything that was heard."""
    told = {headers.get("ce-subject", "") for _, headers, _ in heard}
    for name in sorted(wanted):
        plural = name.split("/")[-2]
        came = "no event within ten seconds"
        notes.expect(name in told, "event-sent", plural, sent=f"created {name}", came=came)
    if not heard:
        for rule in ("event-subject", "event-headers", "event-sequence", "event-payload", "event-personal"):
            notes.not_run(rule, domain.package, "nothing was heard")
        return
    for subject, headers, payload in heard:
        _one(domain, notes, subject, headers, payload)
    _sequence(domain, notes, heard)


def _one(domain: Domain, notes: Notes, subject: str, headers: dict[str, str], payload: bytes) -> None:
    kind = headers.get("ce-type", "")
    where = kind.rpartition(".")[2] or subject
    sent = f"heard on {subject}: ce-id {headers.get('ce-id', 'absent')}"
    wrong = _wrong_headers(domain, headers)
    notes.expect(not wrong, "event-headers", where, sent=sent, came=", ".join(wrong))
    if kind.endswith(".Void"):
        return  # stands for one that could not be published
    event = domain.events.get(kind)
    if event is None or event.resource is None:
        notes.failed(
            "event-payload", where, sent=sent, came=f"ce-type {kind!r}, which is no event of the contract"
        )
        return
    region = headers.get("ce-subject", "").split("/")[1:2]
    wanted = _subject(domain, event, region[0] if region else "")
    notes.expect(subject == wanted, "event-subject", where, sent=sent, came=f"{subject}, not {wanted}")
    try:
        message = message_factory.GetMessageClass(event.descriptor).FromString(payload)
    except DecodeError:
        notes.failed("event-payload", where, sent=sent, came=f"{len(payload)} bytes that are no {kind}")
        return
    record = getattr(message, event.descriptor.fields_by_number[1].name)
    right = record.name == headers.get("ce-subject") and event.resource.pattern.match(record.name) is not None
    came = f"the record {record.name!r}, and ce-subject {headers.get('ce-subject')!r}"
    notes.expect(right, "event-payload", where, sent=sent, came=came)
    shows = _shown(event, message, record)
    notes.expect(not shows, "event-personal", where, sent=sent, came=f"it shows {', '.join(shows)}")


def _subject(domain: Domain, event: Event, region: str) -> str:
    place = ".".join((region[:2], region[2:4], region[4:6]))
    assert event.resource is not None
    return f"village.{place}.{domain.name}.{event.resource.subject}.{event.verb}"


def _shown(event: Event, message: Message, record: Any) -> list[str]:
    assert event.resource is not None
    if event.resource.rises not in _RISING:
        return [field.name for field, _ in record.ListFields() if field.name not in _ABOUT]
    texts = [] if event.resource.rises == options_pb2.RISES_FULL else personal.free_text(message)
    return [*personal.unmasked(message), *texts]


def _wrong_headers(domain: Domain, headers: dict[str, str]) -> list[str]:
    ce = {k.removeprefix("ce-"): v for k, v in headers.items() if k.startswith("ce-")}
    region = ce.get("subject", "").split("/")[1:2]
    wanted = {
        "specversion": ce.get("specversion") == "1.0",
        "id": _uuid(ce.get("id", "")),
        "type": bool(ce.get("type")),
        "source": re.fullmatch(rf"/regions/[1-9][0-9]{{5}}/{domain.name}", ce.get("source", "")) is not None
        and ce["source"].split("/")[2:3] == region,
        "subject": bool(ce.get("subject")),
        "time": _time(ce.get("time", "")),
        "datacontenttype": ce.get("datacontenttype") == "application/protobuf",
    }
    wrong = [f"ce-{name}: {ce.get(name, 'absent')}" for name, right in wanted.items() if not right]
    if headers.get("Nats-Msg-Id") != ce.get("id"):
        wrong.append(f"Nats-Msg-Id: {headers.get('Nats-Msg-Id', 'absent')}")
    trace = headers.get("traceparent")
    if trace is not None and not re.fullmatch(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", trace):
        wrong.append(f"traceparent: {trace}")
    return wrong


def _uuid(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return str(uuid.UUID(text)) == text
    return False


def _time(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return datetime.datetime.fromisoformat(text).utcoffset() == datetime.timedelta()
    return False


def _sequence(domain: Domain, notes: Notes, heard: list[Heard]) -> None:
    last: dict[str, tuple[int, int, int]] = {}
    seen = set[str]()
    for subject, headers, _ in heard:
        source, text, event_id = (headers.get(f"ce-{name}", "") for name in ("source", "sequence", "id"))
        sent = f"heard on {subject}: ce-id {event_id}"
        where = source or domain.package
        if not re.fullmatch(r"\d+\.\d+\.\d+", text):
            notes.failed("event-sequence", where, sent=sent, came=f"ce-sequence: {text or 'absent'}")
            continue
        if event_id in seen:
            continue  # delivery is at least once
        seen.add(event_id)
        epoch, incarnation, number = (int(part) for part in text.split("."))
        before = last.get(source)
        follows = before is None or (before[:2] != (epoch, incarnation) and before[:2] < (epoch, incarnation))
        follows = follows or (
            before is not None and (epoch, incarnation, number) == (*before[:2], before[2] + 1)
        )
        came = f"{text} behind {'.'.join(map(str, before or ()))}"
        notes.expect(follows, "event-sequence", where, sent=sent, came=came)
        last[source] = (epoch, incarnation, number)
