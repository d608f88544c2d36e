"""What a domain does about events (I3, consumers): each once however often it comes, in the commit of its
effect; back-off, dead letters, replay; with a real broker, which may be away."""

import asyncio
import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import outbox, reactions
from tests.broker import Broker
from tests.county import County
from tests.loop import rows
from tests.trial import domain
from tests.trial.domain import PARENT
from tests.waiting import until
from village.mesh.v1 import dead_letter_pb2, void_pb2


@pytest.fixture
def broker(tmp_path: pathlib.Path) -> Iterator[Broker]:
    (tmp_path / "nats").mkdir()
    found = Broker(tmp_path / "nats")
    yield found
    found.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reactions, "PAUSES_S", (0.05, 0.05, 0.1, 0.1, 0.1))
    monkeypatch.setattr(reactions, "FETCH_S", 0.3)


class Running:
    """A relay and a reactor, as a process runs them; killed without farewell."""

    def __init__(self, trial: County, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = outbox.Relay(trial.store, url)
        self._reactor = reactions.Reactor(trial.store, url, "360423", self._relay.wake, lambda: trial.now)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        relay, reactor = self._relay.run(), self._reactor.run()
        self._tasks = [self._loop.create_task(relay), self._loop.create_task(reactor)]
        both = asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(both)
        rest = asyncio.all_tasks(self._loop)  # of the client, when its broker is gone
        for task in rest:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())  # what asks the database
        self._loop.close()

    def kill(self) -> None:
        def cancel() -> None:
            for task in self._tasks:
                task.cancel()

        self._loop.call_soon_threadsafe(cancel)
        self._thread.join(10)


@pytest.fixture
def running(trial: County, broker: Broker) -> Iterator[Running]:
    found = Running(trial, broker.url)
    yield found
    found.kill()


def put(trial: County, name: str, title: str = "") -> str:
    pb = domain.messages()
    request = pb.PutStockRequest(parent=PARENT, stock={"quantity": 100, "title": title}, stock_id=name)
    return str(trial.call("county", request).name)


def take(trial: County, name: str, count: int = 1) -> None:
    for _ in range(count):
        trial.call("county", domain.messages().TakeStockRequest(name=name, quantity=1))


def noted(trial: County, name: str) -> int:
    found = rows(trial, "SELECT quantity FROM stocks WHERE name = :n", n=f"{PARENT}/stocks/taken-{name}")
    return int(found[0][0]) if found else 0


def letters(trial: County, **fields: Any) -> list[Any]:
    request = dead_letter_pb2.ListDeadLettersRequest(parent=PARENT, **fields)
    return list(trial.call("administrator", request).dead_letters)


def test_acts_on_each_event_once(trial: County, running: Running) -> None:
    take(trial, put(trial, "seed"), 30)
    until(lambda: noted(trial, "seed") == 30, seconds=15)
    time.sleep(0.5)
    assert noted(trial, "seed") == 30
    assert rows(trial, "SELECT count(*) FROM mesh_inbox")[0][0] == 30
    assert running


def test_acts_once_though_it_comes_twice(trial: County, broker: Broker) -> None:
    """The process dies between the commit and the acknowledgement, and another takes over."""
    first = Running(trial, broker.url)
    take(trial, put(trial, "seed"), 5)
    until(lambda: noted(trial, "seed") == 5, seconds=15)
    first.kill()
    subject, headers, payload = next(
        m for m in broker.stored("trial") if m[1]["ce-type"].endswith("StockTaken")
    )
    event = reactions.Event(subject, headers, payload)
    (reaction,) = trial.store.reactions.values()
    reactor = reactions.Reactor(trial.store, broker.url, "360423", lambda: None, lambda: trial.now)
    assert not reactor._together(reaction, [event])
    assert reactor._alone(reaction, event) is None
    assert noted(trial, "seed") == 5


def test_goes_on_when_broker_and_process_come_back(trial: County, broker: Broker) -> None:
    name = put(trial, "seed")
    first = Running(trial, broker.url)
    take(trial, name, 3)
    until(lambda: noted(trial, "seed") == 3, seconds=15)
    broker.kill()
    take(trial, name, 3)
    spent = time.thread_time()
    time.sleep(1.0)
    assert time.thread_time() - spent < 0.5
    first.kill()
    broker.start()
    second = Running(trial, broker.url)
    try:
        until(lambda: noted(trial, "seed") == 6, seconds=20)
    finally:
        second.kill()


def test_gives_up_what_always_fails_and_goes_on(trial: County, running: Running) -> None:
    take(trial, put(trial, "bad", "poison"))
    take(trial, put(trial, "seed"), 3)
    until(lambda: noted(trial, "seed") == 3, seconds=15)
    until(lambda: len(letters(trial)) == 1, seconds=20)
    (letter,) = letters(trial, filter="settled = false")
    assert (letter.reaction, letter.why, letter.attempts) == ("count_taken", "ValueError", reactions.ATTEMPTS)
    read = trial.call("administrator", dead_letter_pb2.GetDeadLetterRequest(name=letter.name))
    assert read.subject.endswith("trial.stock.taken")
    assert {h.key for h in read.headers} >= {"ce-id", "ce-type"}
    assert running


def test_replays_a_dead_letter_once_its_cause_is_mended(
    trial: County, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(trial, put(trial, "bad", "poison"))
    until(lambda: len(letters(trial)) == 1, seconds=20)
    (letter,) = letters(trial)
    replay = dead_letter_pb2.ReplayDeadLetterRequest(name=letter.name)
    with pytest.raises(Exception, match="internal fault"):
        trial.call("administrator", replay)
    assert not letters(trial)[0].settled
    (old,) = trial.store.reactions.values()

    def mended(event: Any, call: Any) -> None:
        event.stock.title = ""
        domain.count_taken(event, call)

    mended_reaction = reactions.Reaction(old.name, old.subject, mended)
    monkeypatch.setitem(trial.store.reactions, old.name, mended_reaction)
    assert trial.call("administrator", replay).settled
    assert noted(trial, "bad") == 1
    with pytest.raises(reactions.DeadLetterSettled):
        trial.call("administrator", replay)
    (row,) = rows(trial, "SELECT actor FROM mesh_audit WHERE method = 'ReplayDeadLetter' AND result = 'OK' "
                  "AND name LIKE '%taken-bad'")  # fmt: skip
    assert row[0] == "adm-1"
    assert running


def test_drops_a_dead_letter(trial: County, running: Running) -> None:
    take(trial, put(trial, "bad", "poison"))
    until(lambda: len(letters(trial)) == 1, seconds=20)
    name = letters(trial)[0].name
    assert trial.call("administrator", dead_letter_pb2.DropDeadLetterRequest(name=name)).settled
    assert letters(trial, filter="settled = false") == []
    assert noted(trial, "bad") == 0
    assert running


def test_of_an_event_that_no_broker_takes_a_void_takes_the_place(
    trial: County, broker: Broker, running: Running
) -> None:
    """A poison row holds up nothing behind it, and the log has no gap."""
    pb = domain.messages()
    big = pb.PutStockRequest(parent=PARENT, stock={"note": "x" * 1_200_000, "quantity": 1}, stock_id="big")
    until(lambda: bool(rows(trial, "SELECT 1 FROM mesh_relay WHERE published > 0")), seconds=15)
    trial.call("county", big)
    take(trial, put(trial, "seed"), 3)
    until(lambda: noted(trial, "seed") == 3, seconds=20)
    stored = broker.stored("trial")
    numbers = [int(headers["ce-sequence"].split(".")[2]) for _, headers, _ in stored]
    assert numbers == list(range(1, len(numbers) + 1))
    (void,) = [(h, p) for _, h, p in stored if h["ce-type"] == "village.mesh.v1.Void"]
    found = void_pb2.Void.FromString(void[1])
    assert (found.type, found.why) == ("village.trial.v1.StockPut", "TOO_LARGE")
    ((event_id,),) = rows(trial, "SELECT event_id FROM mesh_outbox WHERE void = 'TOO_LARGE'")
    assert void[0]["ce-id"] == event_id
    assert trial.call("county", pb.TakeStockRequest(name=f"{PARENT}/stocks/big", quantity=1)).quantity == 0
    assert running


def test_remembers_longer_than_any_stream_keeps(trial: County, running: Running) -> None:
    take(trial, put(trial, "seed"))
    until(lambda: noted(trial, "seed") == 1, seconds=15)
    trial.pass_time(days=44)
    reactions.forget(trial.store, trial.now)
    assert rows(trial, "SELECT count(*) FROM mesh_inbox")[0][0] == 1
    trial.pass_time(days=2)
    reactions.forget(trial.store, trial.now)
    assert rows(trial, "SELECT count(*) FROM mesh_inbox")[0][0] == 0
    assert running
