"""Events that break one rule each, between a good server and the broker that is listened at: every one is
caught, and by that rule alone."""

import asyncio
import pathlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import nats
import pytest

from conform import announced, notes, rules, run, target
from tests.broker import Broker
from tests.conform import broken
from tests.conform.served import Served
from tests.county import REGION
from village.habitat.v1 import events_pb2

EVENTS = frozenset(rule.name for rule in rules.RULES if rule.needs == rules.EVENTS)
Message = tuple[str, dict[str, str], bytes]
Alter = Callable[[Message], list[Message]]


class Bridge:
    """Carries events from one broker to another, otherwise than they came."""

    def __init__(self, source: str, sink: str, alter: Alter) -> None:
        self._urls, self._alter = (source, sink), alter
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._carry()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    async def _carry(self) -> None:
        source, sink = [await nats.connect(url) for url in self._urls]

        async def carry(message: Any) -> None:
            for subject, headers, payload in self._alter(
                (message.subject, dict(message.headers or {}), message.data)
            ):
                await sink.publish(subject, payload, headers=headers)

        await source.subscribe("village.>", cb=carry)
        await source.flush()
        self._ready.set()
        while not self._stop.is_set():
            await asyncio.sleep(0.02)
        await source.close()
        await sink.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that is listened at."""
    found = Broker(tmp_path_factory.mktemp("elsewhere"))
    yield found
    found.kill()


def heard(served: Served, elsewhere: Broker, folder: pathlib.Path, alter: Alter) -> notes.Notes:
    server = broken.Broken(folder, served.address)
    bridge = Bridge(served.broker.url, elsewhere.url, alter)
    try:
        return run.run(
            run.Plan(
                target=target.Target(server.address), region=REGION, tokens=served.tokens, write=True,
                nats=elsewhere.url, only=EVENTS,
            )
        )  # fmt: skip
    finally:
        bridge.close()
        server.close()


def as_it_is(message: Message) -> list[Message]:
    return [message]


def header(name: str, change: Callable[[str], str | None]) -> Alter:
    def alter(message: Message) -> list[Message]:
        subject, headers, payload = message
        value = change(headers[name])
        kept = {k: v for k, v in headers.items() if k != name} | ({} if value is None else {name: value})
        return [(subject, kept, payload)]

    return alter


def subject(change: Callable[[str], str]) -> Alter:
    return lambda message: [(change(message[0]), *message[1:])]


def record(change: Callable[[Any], Any]) -> Alter:
    def alter(message: Message) -> list[Message]:
        event = events_pb2.ReportFiled.FromString(message[2])
        change(event.report)
        return [(*message[:2], event.SerializeToString())]

    return alter


def jump(text: str) -> str:
    epoch, incarnation, number = text.split(".")
    return f"{epoch}.{incarnation}.{int(number) * 2}"


def show_phone(report: Any) -> None:
    report.contact.phone = "13912348765"


def show_text(report: Any) -> None:
    report.description = "路口东侧第三户门前"


def rename(report: Any) -> None:
    report.name += "0"


FAULTS: dict[str, tuple[str, Alter]] = {
    "are not sent": ("event-sent", lambda message: []),
    "have another verb in the subject": ("event-subject", subject(lambda s: s.replace(".filed", ".created"))),
    "have an id in the subject": ("event-subject", subject(lambda s: f"{s}.1")),
    "jump in their numbers": ("event-sequence", header("ce-sequence", jump)),
    "have a plain number": ("event-sequence", header("ce-sequence", lambda s: s.rpartition(".")[2])),
    "have another id for the broker": ("event-headers", header("Nats-Msg-Id", lambda _: str(uuid.uuid4()))),
    "have no time": ("event-headers", header("ce-time", lambda _: None)),
    "are from nowhere": ("event-headers", header("ce-source", lambda _: "habitat")),
    "have a trace that is none": ("event-headers", lambda m: [(m[0], {**m[1], "traceparent": "1"}, m[2])]),
    "are of no known type": ("event-payload", header("ce-type", lambda _: "village.habitat.v1.ReportMade")),
    "hold bytes": ("event-payload", lambda m: [(*m[:2], b"\x0a\x7f")]),
    "are about another record": ("event-payload", record(rename)),
    "show a telephone number": ("event-personal", record(show_phone)),
    "show what a person wrote": ("event-personal", record(show_text)),
}


def test_good_events_pass(
    served: Served, elsewhere: Broker, tmp_path: pathlib.Path
) -> None:  # fmt: skip
    found = heard(served, elsewhere, tmp_path, as_it_is)
    assert found.of(notes.FAILED) == []
    assert {note.rule.name for note in found.of(notes.PASSED)} == EVENTS


@pytest.mark.parametrize("what", FAULTS)
def test_that_break_a_rule_are_caught_by_it_alone(
    served: Served, elsewhere: Broker, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    rule, alter = FAULTS[what]
    if rule == "event-sent":
        monkeypatch.setattr(announced, "WAIT_S", 1.0)
    failed = heard(served, elsewhere, tmp_path, alter).of(notes.FAILED)
    assert {note.rule.name for note in failed} == {rule}, "\n".join(map(str, failed))


def test_a_broker_that_is_away_is_no_finding(
    served: Served, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announced, "WAIT_S", 1.0)
    plan = run.Plan(
        target=target.Target(served.address), region=REGION, tokens=served.tokens, write=True,
        nats="nats://127.0.0.1:1", domains=["habitat"],
    )  # fmt: skip
    with pytest.raises(announced.NoBroker):
        run.run(plan)
