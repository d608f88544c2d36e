"""How `village_mesh` follows events: each has its effect once, whatever is killed, comes twice or is
missing."""

import asyncio
import datetime
import pathlib
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import village_mesh
from mesh import bus, events
from tests.broker import Broker
from tests.waiting import until
from village.habitat.v1 import events_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
SUBJECT = "village.36.04.23.habitat.report.*"
WHOLE = "village.36.04.23.habitat.>"
NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    found = Broker(tmp_path_factory.mktemp("broker"))
    yield found
    found.kill()


@pytest.fixture
def told(broker: Broker) -> "Told":
    """A stream without events."""
    found = Told(broker)
    asyncio.run(found.empty())
    return found


class Told:
    """What a county announces."""

    def __init__(self, broker: Broker) -> None:
        self.url = broker.url

    async def empty(self) -> None:
        client = await bus.connect(self.url)
        js: Any = client.jetstream()
        if not await bus.ensure_stream(client, "habitat"):
            await js.delete_stream("EV_habitat")
            await bus.ensure_stream(client, "habitat")
        await client.close()

    def announce(self, *numbers: int, epoch: int = 1, again: bool = False) -> None:
        """Announces that reports of these numbers were filed; `again`: the same as before to who keeps count,
        and new to the broker."""
        asyncio.run(self._announce(numbers, epoch, again))

    async def _announce(self, numbers: tuple[int, ...], epoch: int, again: bool) -> None:
        client = await bus.connect(self.url)
        for number in numbers:
            name = f"regions/360423/reports/{number}"
            found = events.headers(
                event_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{epoch} {number}")), time=NOW, name=name,
                kind="village.habitat.v1.ReportFiled", region="360423", domain="habitat", epoch=epoch,
                incarnation=1, number=number, trace="", audit_digest="",
            )  # fmt: skip
            found["Nats-Msg-Id"] += " again" * again
            payload = events_pb2.ReportFiled(report={"name": name}).SerializeToString()
            await bus.publish(client, [("village.36.04.23.habitat.report.filed", found, payload)])
        await client.close()

    def in_hand(self, durable: str) -> int:
        """How many events a consumer has got and not acknowledged."""

        async def ask() -> int:
            client = await bus.connect(self.url)
            try:
                return (await client.jetstream().consumer_info("EV_habitat", durable)).num_ack_pending or 0
            finally:
                await client.close()

        return asyncio.run(ask())


class Ledger:
    """A subscriber's own table."""

    def __init__(self, path: pathlib.Path, name: str = "ledger") -> None:
        self.connection = sqlite3.connect(path)
        self.connection.execute("CREATE TABLE IF NOT EXISTS ledger (number INTEGER, name TEXT)")
        self.inbox = village_mesh.Inbox(self.connection, name)
        self.gaps: list[tuple[int, int, int]] = []

    def enter(self, event: village_mesh.Event, cursor: sqlite3.Cursor) -> None:
        message = event.message
        assert isinstance(message, events_pb2.ReportFiled)
        cursor.execute("INSERT INTO ledger VALUES (?, ?)", (event.number, message.report.name))

    def note(self, gap: village_mesh.Gap, _cursor: sqlite3.Cursor) -> None:
        self.gaps.append((gap.epoch, gap.first, gap.last))

    def follow(self, url: str, **how: Any) -> list[int]:
        """Acts on what there is; the numbers in the ledger then."""
        asked = {"subject": SUBJECT, "patience": 1.0, "forever": False, **how}
        asyncio.run(village_mesh.follow(url, self.inbox, self.enter, **asked))
        return [number for (number,) in self.connection.execute("SELECT number FROM ledger ORDER BY rowid")]


@pytest.fixture
def ledger(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(village_mesh.following, "FETCH_S", 0.3)
    return Ledger(tmp_path / "ledger.db", f"ledger-{uuid.uuid4()}")


class TestFollowing:
    def test_begins_with_the_first_and_acts_once_on_what_comes_twice(
        self, told: Told, ledger: Ledger
    ) -> None:
        told.announce(1, 2)
        told.announce(2, 1, again=True)
        assert ledger.follow(told.url) == [1, 2]
        told.announce(3)
        assert ledger.follow(told.url) == [1, 2, 3]

    def test_tells_what_is_missing_and_what_begins_anew(self, told: Told, ledger: Ledger) -> None:
        told.announce(3, 4, 7)
        told.announce(5)
        told.announce(1, 2, 4, epoch=2)
        assert ledger.follow(told.url, subject=WHOLE, missed=ledger.note) == [3, 4, 7, 5, 1, 2, 4]
        assert ledger.gaps == [(1, 1, 2), (1, 5, 6), (2, 3, 3)]

    def test_goes_through_everything_again_for_a_restored_database(
        self, told: Told, ledger: Ledger, tmp_path: pathlib.Path
    ) -> None:
        told.announce(1, 2)
        ledger.follow(told.url)
        older = Ledger(tmp_path / "older.db", ledger.inbox.name)
        ledger.connection.backup(older.connection)
        told.announce(3, 4)
        assert ledger.follow(told.url) == [1, 2, 3, 4]
        assert older.follow(told.url) == [1, 2]  # the broker has nothing more for him
        assert older.follow(told.url, replay=True) == [1, 2, 3, 4]

    def test_stops_at_an_effect_that_fails_and_comes_back_to_it(self, told: Told, ledger: Ledger) -> None:
        told.announce(1, 2, 3)
        well = ledger.enter

        def fails(event: village_mesh.Event, cursor: sqlite3.Cursor) -> None:
            if event.number == 2:
                raise ZeroDivisionError
            well(event, cursor)

        ledger.enter = fails  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            ledger.follow(told.url)
        ledger.enter = well  # type: ignore[method-assign]
        assert ledger.follow(told.url) == [1, 2, 3]

    @pytest.mark.parametrize("moment", ["before the commit", "before the ack"])
    def test_has_each_effect_once_when_it_is_killed(
        self, told: Told, ledger: Ledger, tmp_path: pathlib.Path, moment: str
    ) -> None:
        """kill -9 of a program, in the effect or between its commit and its acknowledgement."""
        program = (
            "import os, signal, sys\n"
            "from tests.integration import test_client_events as here\n"
            "def die(*_):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
            "ledger = here.Ledger(sys.argv[1], sys.argv[2])\n"
            "well = ledger.enter\n"
            "def dies(event, cursor):\n"
            "    well(event, cursor)\n"
            "    if event.number == 2:\n"
            "        if sys.argv[4] == 'before the commit':\n            die()\n"
            "        import nats.aio.msg\n        nats.aio.msg.Msg.ack = die\n"
            "ledger.enter = dies\n"
            "ledger.follow(sys.argv[3])\n"
        )
        told.announce(1, 2, 3)
        done = subprocess.run(
            [sys.executable, "-c", program, tmp_path / "ledger.db", ledger.inbox.name, told.url, moment],
            cwd=ROOT, env={"PYTHONPATH": ".:gen:client"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL, done.stderr
        before = [n for (n,) in ledger.connection.execute("SELECT number FROM ledger")]
        assert before == ([] if moment == "before the commit" else [1, 2, 3])
        told.announce(4)
        assert ledger.follow(told.url) == [1, 2, 3, 4]

    def test_goes_on_when_the_broker_comes_back(
        self, told: Told, broker: Broker, tmp_path: pathlib.Path
    ) -> None:
        """docs/clients/ledger.py."""
        path = tmp_path / "ledger.db"
        command = [sys.executable, ROOT / "docs/clients/ledger.py", told.url, path]
        written = (tmp_path / "out.txt").open("w")
        process = subprocess.Popen(
            command, env={"PYTHONPATH": f"{ROOT}/gen:{ROOT}/client"}, stdout=written, stderr=written
        )

        def entered() -> int:
            assert process.poll() is None, (tmp_path / "out.txt").read_text()
            with sqlite3.connect(path) as reading:
                made = reading.execute("SELECT count(*) FROM sqlite_master WHERE name = 'ledger'").fetchone()
                return made[0] and reading.execute("SELECT count(*) FROM ledger").fetchone()[0]

        try:
            told.announce(1, 2)
            until(lambda: entered() == 2)
            until(lambda: told.in_hand("township-ledger") == 0)
            broker.kill()
            broker.start()
            told.announce(3)
            until(lambda: entered() == 3)
        finally:
            process.kill()
            process.wait()
            written.close()

    def test_refuses_what_cannot_work(self, ledger: Ledger, tmp_path: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="does not name a domain"):
            ledger.follow("nats://127.0.0.1:1", subject="village.36.>")
        with pytest.raises(ValueError, match="whole domain"):
            ledger.follow("nats://127.0.0.1:1", missed=ledger.note)
        with pytest.raises(ValueError, match="commits each statement"):
            village_mesh.Inbox(sqlite3.connect(tmp_path / "a.db", isolation_level=None), "ledger")


def event(number: int, kind: str = "village.habitat.v1.ReportFiled") -> village_mesh.Event:
    return village_mesh.Event(
        str(number),
        kind,
        "/regions/360423/habitat",
        f"regions/360423/reports/{number}",
        NOW,
        1,
        1,
        number,
        b"",
    )


class TestInbox:
    def test_works_on_postgresql_too(self, postgresql: str) -> None:
        uri = sa.make_url(postgresql).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(uri) as connection:
            connection.execute("CREATE TEMPORARY TABLE ledger (number INTEGER)")
            inbox, gaps = village_mesh.Inbox(connection, "ledger", mark="%s"), []

            def enter(event: village_mesh.Event, cursor: Any) -> None:
                cursor.execute("INSERT INTO ledger VALUES (%s)", (event.number,))

            def note(gap: village_mesh.Gap, _cursor: Any) -> None:
                gaps.append((gap.first, gap.last))

            assert [inbox.take([event(n)], enter, note) for n in (1, 2, 1, 5)] == [1, 1, 0, 1]
            assert connection.execute("SELECT number FROM ledger ORDER BY 1").fetchall() == [(1,), (2,), (5,)]
            assert gaps == [(3, 4)]

    def test_forgets_what_no_broker_keeps(self, ledger: Ledger) -> None:
        ledger.inbox.take([event(1)], lambda event, cursor: None)
        ledger.inbox.forget(NOW)
        assert not ledger.inbox.take([event(1)], lambda event, cursor: None)
        ledger.inbox.forget(NOW + datetime.timedelta(seconds=1))
        assert ledger.inbox.take([event(1)], lambda event, cursor: None)

    def test_has_no_message_of_a_type_that_is_not_known_here(self) -> None:
        assert isinstance(event(1).message, events_pb2.ReportFiled)
        assert event(1, "village.habitat.v1.ReportSung").message is None
        assert event(1, "village.opera.v1.OperaSung").message is None
        assert event(1, "village.mesh.v1.Void").message is not None
