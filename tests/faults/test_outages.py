"""The broker dies, stays away, comes back; the disk fills (I1, I8): writes go on or are refused cleanly,
and every event is out when things are well again."""

import asyncio
import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from mesh import errors, outbox, resources
from tests.broker import Broker
from tests.county import REGION, VILLAGE, County
from village.habitat.v1 import report_pb2 as pb


def file(county: County) -> pb.Report:
    here = {"latitude": 29, "longitude": 115}
    report = pb.Report(category=1, description="x" * 500, division=VILLAGE, location=here)
    return county.call("resident", pb.FileReportRequest(parent=f"regions/{REGION}", report=report))


@contextlib.contextmanager
def relaying(county: County, broker: Broker) -> Iterator[outbox.Relay]:
    """A relay running beside the test."""
    relay, done = outbox.Relay(county.store, broker.url), threading.Event()

    async def run() -> None:
        task = asyncio.ensure_future(relay.run())
        while not done.is_set():
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    yield relay
    done.set()
    thread.join()


def wait_until_published(county: County, seconds: float = 30) -> None:
    log, until = outbox.Log(county.store, county.store.grants.of(REGION)), time.monotonic() + seconds
    while log.backlog():
        assert time.monotonic() < until, "the backlog stays"
        time.sleep(0.02)


def events_of(county: County) -> list[str]:
    table = county.store.plumbing.outbox
    return [r.event_id for r in county.store.database.select(sa.select(table).order_by(table.c.number))]


class TestBroker:
    def test_may_die_again_and_again_while_reports_are_filed(
        self, county: County, tmp_path: pathlib.Path
    ) -> None:
        broker = Broker(tmp_path)
        try:
            with relaying(county, broker) as relay:
                for _ in range(8):
                    for _ in range(5):
                        file(county)
                        relay.wake()
                    broker.kill()
                    file(county)
                    broker.start()
                wait_until_published(county)
            stored = [headers["ce-id"] for _, headers, _ in broker.stored()]
        finally:
            broker.kill()
        assert stored == events_of(county)

    def test_may_be_away_and_finds_every_event_when_it_is_back(
        self, county: County, tmp_path: pathlib.Path
    ) -> None:
        broker = Broker(tmp_path)
        try:
            with relaying(county, broker):
                file(county)
                wait_until_published(county)
                broker.kill()
                names = [file(county).name for _ in range(40)]
                assert outbox.Log(county.store, county.store.grants.of(REGION)).backlog() == 40
                broker.start()
                wait_until_published(county)
            assert [h["ce-subject"] for _, h, _ in broker.stored()][-40:] == names
        finally:
            broker.kill()

    def test_that_lost_its_stream_gets_every_event_again(
        self, county: County, tmp_path: pathlib.Path
    ) -> None:
        import nats

        broker = Broker(tmp_path)

        async def lose() -> None:
            client = await nats.connect(broker.url)
            await client.jetstream().delete_stream("EV_habitat")
            await client.close()

        county.now = resources.utcnow()  # what is older than the broker keeps stays away
        try:
            with relaying(county, broker) as relay:
                file(county)
                wait_until_published(county)
                asyncio.run(lose())
                file(county)
                relay.wake()
                wait_until_published(county)
            assert [h["ce-id"] for _, h, _ in broker.stored()] == events_of(county)[-2:]
        finally:
            broker.kill()


class TestFullDisk:
    def test_refuses_cleanly_and_goes_on_when_there_is_room(
        self, tmp_path: pathlib.Path, request: pytest.FixtureRequest
    ) -> None:
        """SQLite says that the disk is full when its file may not grow any more."""
        county = County(tmp_path, f"sqlite:///{tmp_path}/{{domain}}.db")
        request.addfinalizer(county.close)
        engine, limit = county.store.database.engine, [0]

        @sa.event.listens_for(engine, "checkout")
        def limited(connection: object, *_: object) -> None:
            connection.execute(f"PRAGMA max_page_count={limit[0] or 1073741823}")  # type: ignore[attr-defined]

        with engine.connect() as connection:
            limit[0] = int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0) + 10
        county.store.database.close()  # connections opened from now on have the limit
        filed: list[str] = []

        def fill() -> None:
            while len(filed) < 500:
                filed.append(file(county).name)

        with pytest.raises(errors.Unavailable) as refused:
            fill()
        assert refused.value.delay > 0
        assert filed
        before = len(events_of(county))
        with pytest.raises(errors.Unavailable):
            file(county)
        assert len(events_of(county)) == before
        for name in filed:
            assert county.row(name).message.description == "x" * 500
        limit[0] = 0
        county.store.database.close()
        filed.append(file(county).name)
        reports = sa.text("SELECT count(*) FROM reports")
        assert county.store.database.select(reports)[0][0] == len(filed)
        audited = sa.text("SELECT count(*) FROM mesh_audit WHERE method = 'FileReport'")
        assert county.store.database.select(audited)[0][0] == len(filed)
