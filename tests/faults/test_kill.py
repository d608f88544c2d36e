"""kill -9 between any two steps of a write and of the relay (I1): what was acknowledged is there, with
its history, event and audit row; the log is numbered without gap; and no subscriber sees an effect twice.

The process under test is forked, so that hundreds of deaths take a minute. It dies at the n-th SQL
statement or the n-th message to the broker, n going through all of them, before or after it."""

import asyncio
import functools
import os
import pathlib
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import bus, database, outbox
from tests.broker import Broker
from tests.county import REGION, VILLAGE, County
from village.habitat.v1 import report_pb2 as pb

DEATHS = 120


class _Fuse:
    """Kills the process at the n-th step, before or after it."""

    def __init__(self, n: int) -> None:
        self._left, self._after = divmod(n, 2)
        self._lock = threading.Lock()

    def around(self, step: Any) -> Any:
        with self._lock:
            self._left -= 1
            now = self._left == 0
        if now and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = step()
        if now and self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


class _Cursor:
    """A driver's cursor on a fuse."""

    def __init__(self, cursor: Any, fuse: _Fuse) -> None:
        self._cursor, self._fuse = cursor, fuse

    def execute(self, *args: Any, **named: Any) -> Any:
        return self._fuse.around(functools.partial(self._cursor.execute, *args, **named))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def _light(fuse: _Fuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the fuse around every SQL statement and every message to the broker."""
    import contextlib

    plain = database.Database.cursor

    @contextlib.contextmanager
    def cursor(self: database.Database, **how: bool) -> Iterator[Any]:
        with plain(self, **how) as found:
            yield _Cursor(found, fuse)

    monkeypatch.setattr(database.Database, "cursor", cursor)
    sends = bus._batch

    async def batch(client: Any, messages: Any) -> None:
        class Client:
            async def publish(self, *args: Any, **named: Any) -> None:
                fuse.around(lambda: None)
                await client.publish(*args, **named)

            async def request(self, *args: Any, **named: Any) -> Any:
                fuse.around(lambda: None)
                answer = await client.request(*args, **named)
                fuse.around(lambda: None)
                return answer

        await sends(Client(), messages)

    monkeypatch.setattr(bus, "_batch", batch)


def _work(county: County, broker: Broker, acknowledged: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process does until it dies: files and accepts reports, telling which were acknowledged,
    while the relay publishes."""
    relay = outbox.Relay(county.store, broker.url)
    if n >= 0:
        _light(_Fuse(n), monkeypatch)
    threading.Thread(target=lambda: asyncio.run(relay.run()), daemon=True).start()
    for _ in range(4):
        here = {"latitude": 29, "longitude": 115}
        report = pb.Report(category=1, description="x", division=VILLAGE, location=here)
        filed = county.call("resident", pb.FileReportRequest(parent=f"regions/{REGION}", report=report))
        os.write(acknowledged, f"filed {filed.name}\n".encode())
        relay.wake()
        county.call("county", pb.AcceptReportRequest(name=filed.name))
        os.write(acknowledged, f"accepted {filed.name}\n".encode())
        relay.wake()
    threading.Event().wait(0.15)


def _die(county: County, broker: Broker, n: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Forks the process, lets it die, and gives what it acknowledged."""
    county.store.database.close()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _work(county, broker, writing, n, monkeypatch)
        except Exception:
            traceback.print_exc()  # what is wrong must not look like a death
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    return lines


class TestKillNine:
    @pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
    def test_loses_nothing_acknowledged_and_repeats_no_effect(
        self, county: County, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker = Broker(tmp_path)
        try:
            acknowledged = []
            for n in range(DEATHS):
                acknowledged += _die(county, broker, n, monkeypatch)
            _drain(county, broker)
            stored = broker.stored()
        finally:
            broker.kill()
        assert {line.split()[0] for line in acknowledged} == {"filed", "accepted"}
        self._everything_is_there(county, acknowledged)
        self._log_has_no_gap_and_is_published(county, stored)

    def _everything_is_there(self, county: County, acknowledged: list[str]) -> None:
        plumbing = county.store.plumbing
        steps = {(r.name, r.action) for r in county.store.database.select(sa.select(plumbing.step))}
        announced = {(r.name, r.type) for r in county.store.database.select(sa.select(plumbing.outbox))}
        audited = {(r.name, r.method) for r in county.store.database.select(sa.select(plumbing.audit))}
        words = {"filed": ("file", "ReportFiled", "FileReport"),
                 "accepted": ("accept", "ReportAccepted", "AcceptReport")}  # fmt: skip
        for line in acknowledged:
            word, name = line.split()
            action, event, method = words[word]
            assert county.row(name).version >= 1
            assert (name, action) in steps
            assert (name, f"village.habitat.v1.{event}") in announced
            assert (name, method) in audited
        # and none of the three without the others
        reports = {name for name, _ in steps}
        assert len(steps) == len({a for a in announced if "/reports/" in a[0]})
        assert {name for name, _ in audited if "/reports/" in name} == reports

    def _log_has_no_gap_and_is_published(self, county: County, stored: list[Any]) -> None:
        log = county.store.database.select(sa.select(county.store.plumbing.outbox))
        numbers = sorted(row.number for row in log)
        assert numbers == list(range(1, len(log) + 1))
        effects: dict[str, bytes] = {}
        for _, headers, payload in stored:
            assert effects.setdefault(headers["ce-id"], payload) == payload
        assert effects.keys() == {row.event_id for row in log}
        assert len(stored) == len(effects)  # the broker itself dropped the repetitions


def _drain(county: County, broker: Broker) -> None:
    """Runs the relay until the broker has confirmed everything."""

    async def run() -> None:
        relay = asyncio.ensure_future(outbox.Relay(county.store, broker.url).run())
        log = outbox.Log(county.store, county.store.grants.of(REGION))
        async with asyncio.timeout(30):
            while await asyncio.to_thread(log.backlog):
                await asyncio.sleep(0.02)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)

    asyncio.run(run())
