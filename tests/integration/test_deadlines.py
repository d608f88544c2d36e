"""A call's deadline ends what its database still does for it, and nothing else; on both databases."""

import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import deadlines, errors, rpc
from tests.county import County
from tests.loop import file, take, written
from village.habitat.v1 import report_pb2 as pb


def slow(county: County, seconds: float = 30) -> Any:
    """A question that takes that long."""
    if not county.store.sqlite:
        return sa.text(f"SELECT pg_sleep({seconds})")
    rows = int(seconds * 10_000_000)
    counting = f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}"
    return sa.text(f"WITH RECURSIVE n(i) AS ({counting}) SELECT max(i) FROM n")


def ask(county: County, request: Any, remaining: float) -> bytes:
    """Calls as the county's official does who waits that long."""
    method = next(m for m in county.contract.methods.values() if m.request is type(request))
    headers = {"authorization": f"Bearer {county.token('county')}"}
    return county.chain.answer(  # type: ignore[no-any-return]
        rpc.Incoming(method.path, request.SerializeToString(), headers, remaining)
    )


@contextlib.contextmanager
def in_the_way(county: County, name: str) -> Iterator[None]:
    """Another writer who has changed a report and does not finish."""
    begun, done = threading.Event(), threading.Event()

    def work(cursor: Any) -> None:
        cursor.execute(f"UPDATE reports SET owner = owner WHERE name = '{name}'")
        begun.set()
        done.wait(20)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        written = pool.submit(county.store.database.transact, work)
        assert begun.wait(10)
        try:
            yield
        finally:
            done.set()
            written.result(10)


class TestRead:
    def test_ends_with_the_call_and_leaves_a_connection_that_works(self, county: County) -> None:
        report, path = file(county), county.contract.methods["GetReport"].path
        usual = county.chain.endpoints[path]
        lazy = dataclasses.replace(usual, handler=lambda _, call: call.select(slow(county)))
        county.chain.endpoints[path] = lazy
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            ask(county, pb.GetReportRequest(name=report.name), 0.3)
        assert time.monotonic() - begun < 3
        if not county.store.sqlite:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(%'"
            busy += " AND pid <> pg_backend_pid()"
            assert county.store.database.select(sa.text(busy))[0][0] == 0
        county.chain.endpoints[path] = usual
        assert pb.Report.FromString(ask(county, pb.GetReportRequest(name=report.name), 5)) == report

    def test_is_not_begun_when_time_is_over(self, county: County) -> None:
        with deadlines.keeping(deadlines.after(0)), pytest.raises(errors.DeadlineExceeded):
            county.store.database.select(sa.text("SELECT 1"))

    def test_prepared_ends_too(self, county: County) -> None:
        sql = county.store.database.prepare("slow", lambda: slow(county))
        begun = time.monotonic()
        with deadlines.keeping(deadlines.after(0.2)), pytest.raises(errors.DeadlineExceeded):
            county.store.database.fetch(sql, {})
        assert time.monotonic() - begun < 3

    def test_of_another_call_is_never_ended_instead(self, county: County) -> None:
        """Statements that end about when their time does, each followed by one that has all the time."""
        database = county.store.database
        one = sa.text("SELECT 1")

        def work(n: int) -> int:
            ended = 0
            for k in range(25):
                # so that the thread that looks meets the end of a statement, before and behind
                with deadlines.keeping(deadlines.after(0.01 + 0.001 * ((n + k) % 10))):
                    try:
                        database.select(slow(county, 0.05))
                    except errors.DeadlineExceeded:
                        ended += 1
                for _ in range(20):
                    assert database.select(one)[0][0] == 1
            return ended

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) > 0


class TestWrite:
    @pytest.mark.parametrize("remaining", [86_400, 7.5e9, 2.0**63])
    def test_that_may_take_for_ever_is_made(self, county: County, remaining: float) -> None:
        request = pb.AcceptReportRequest(name=file(county).name, reason="属实")
        assert pb.Report.FromString(ask(county, request, remaining)).state == pb.Report.STATE_ACCEPTED

    def test_that_waits_for_another_ends_with_the_call_and_writes_nothing(self, county: County) -> None:
        report = file(county)
        before = written(county)
        with in_the_way(county, report.name):
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded):
                ask(county, pb.AcceptReportRequest(name=report.name, reason="属实"), 0.5)
            assert time.monotonic() - begun < 3
        assert written(county) == before
        assert take(county, "accept", report.name).state == pb.Report.STATE_ACCEPTED
        assert county.row(report.name).version == 2

    def test_in_a_transaction_ends_and_the_next_one_is_whole(self, county: County) -> None:
        report = file(county)
        update = f"UPDATE reports SET score = 5 WHERE name = '{report.name}'"
        transact = county.store.database.transact
        begun = time.monotonic()
        with (
            in_the_way(county, report.name),
            deadlines.keeping(deadlines.after(0.3)),
            pytest.raises(errors.DeadlineExceeded),
        ):
            transact(lambda cursor: cursor.execute(update) and None)
        assert time.monotonic() - begun < 3
        assert county.row(report.name).message.score == 0
        transact(lambda cursor: cursor.execute(update) and None)
        assert county.row(report.name).message.score == 5
