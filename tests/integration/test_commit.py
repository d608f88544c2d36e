"""The one commit under races, repetitions and faults (I1, I3): everything or nothing, once, and only by the
owner; on both databases."""

import concurrent.futures
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from mesh import database, errors, resources, statements
from tests.county import REGION, County
from tests.loop import PARENT, execute, file, reach, rows, steps, take, written
from village.habitat.v1 import report_pb2 as pb


def together(*work: Callable[[], Any]) -> list[Any]:
    """Runs all at once; gives each one's result or refusal."""
    barrier = threading.Barrier(len(work))

    def run(each: Callable[[], Any]) -> Any:
        barrier.wait(10)
        try:
            return each()
        except (errors.Refusal, database.Moved, database.Disowned, database.Taken) as refusal:
            return refusal

    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        return [f.result() for f in [pool.submit(run, each) for each in work]]


def overtake(county: County, meanwhile: Callable[[], Any]) -> list[Any]:
    """Lets `meanwhile` happen once, between the next handler and its commit."""
    real, happened = county.store.database.commit, []

    def commit(what: statements.Commit) -> None:
        if not happened:
            happened.append(None)
            happened[0] = meanwhile()
        real(what)

    county.store.database.commit = commit  # type: ignore[method-assign]
    return happened


def filing(request_id: str = "", **fields: Any) -> pb.FileReportRequest:
    report = {
        "category": pb.Report.CATEGORY_WASTE, "description": "x", "division": "360423100201",
        "location": {"latitude": 29.26, "longitude": 115.1}, **fields,
    }  # fmt: skip
    return pb.FileReportRequest(parent=PARENT, report=report, request_id=request_id)


class TestRequestId:
    def test_gives_the_first_answer_again_and_writes_nothing(self, county: County) -> None:
        request = filing(str(uuid.uuid4()), contact={"person_name": "张三"})
        first = county.call("resident", request)
        before = written(county)
        county.pass_time(hours=1)
        assert county.call("resident", request) == first
        assert written(county) == before

    def test_gives_the_first_answer_even_after_the_report_moved_on(self, county: County) -> None:
        report, request_id = file(county), str(uuid.uuid4())
        first = take(county, "accept", report.name, request_id=request_id)
        take(county, "assign", report.name)
        assert take(county, "accept", report.name, request_id=request_id) == first

    def test_refuses_another_request_under_the_same_id(self, county: County) -> None:
        report, request_id = file(county), str(uuid.uuid4())
        take(county, "accept", report.name, request_id=request_id)
        for verb, name in (("accept", file(county).name), ("assign", report.name)):
            before = written(county)
            with pytest.raises(errors.Invalid) as caught:
                take(county, verb, name, request_id=request_id)
            assert caught.value.metadata["field"] == "request_id"
            assert written(county) == before

    def test_belongs_to_its_caller(self, county: County) -> None:
        request = filing(str(uuid.uuid4()))
        first, second = county.call("resident", request), county.call("neighbour", request)
        assert first.name != second.name

    def test_is_not_used_up_by_a_refusal(self, county: County) -> None:
        report, request_id = file(county), str(uuid.uuid4())
        with pytest.raises(errors.ActionNotAllowed):
            take(county, "assign", report.name, request_id=request_id)
        take(county, "accept", report.name)
        assert take(county, "assign", report.name, request_id=request_id).state == pb.Report.STATE_ASSIGNED

    def test_lets_two_threads_file_one_report(self, county: County) -> None:
        for _ in range(4):
            request, before = filing(str(uuid.uuid4())), len(written(county)["reports"])
            first, second = together(*[lambda r=request: county.call("resident", r)] * 2)
            assert first == second
            assert isinstance(first, pb.Report)
            assert len(written(county)["reports"]) == before + 1

    def test_answers_a_repetition_that_overtook_the_first(self, county: County) -> None:
        report, request_id = file(county), str(uuid.uuid4())
        happened = overtake(county, lambda: take(county, "accept", report.name, request_id=request_id))
        answer = take(county, "accept", report.name, request_id=request_id)
        assert answer == happened[0]
        assert len(steps(county, report.name)) == 2

    def test_is_kept_for_a_day(self, county: County) -> None:
        request = filing(str(uuid.uuid4()))
        first = county.call("resident", request)
        county.pass_time(hours=23, minutes=59)
        county.store.forget_requests(county.now)
        assert county.call("resident", request) == first
        county.pass_time(minutes=2)
        county.store.forget_requests(county.now)
        assert county.call("resident", request) != first


class TestEtag:
    def test_refuses_what_was_read_before_the_report_moved(self, county: County) -> None:
        report = file(county)
        take(county, "accept", report.name, etag=report.etag)
        before = written(county)
        for stale in (report.etag, "99", "x"):
            with pytest.raises(errors.Conflict) as caught:
                take(county, "assign", report.name, etag=stale)
            assert caught.value.code == errors.ABORTED
        assert written(county) == before
        take(county, "assign", report.name, etag="2")

    def test_refuses_what_moved_between_reading_and_writing(self, county: County) -> None:
        report = reach(county, "ASSIGNED")
        happened = overtake(county, lambda: take(county, "start", report.name))
        with pytest.raises(errors.Conflict):
            take(county, "withdraw", report.name, etag=report.etag)
        assert happened[0].state == county.row(report.name).message.state == pb.Report.STATE_IN_PROGRESS

    def test_absent_lets_the_handler_decide_again(self, county: County) -> None:
        report = reach(county, "ASSIGNED")
        overtake(county, lambda: take(county, "start", report.name))
        answer = take(county, "withdraw", report.name)
        assert answer.state == pb.Report.STATE_WITHDRAWN
        assert steps(county, report.name)[-1].from_state == "IN_PROGRESS"


class TestRace:
    def test_lets_one_of_eight_accept(self, county: County) -> None:
        report = file(county)
        found = together(*[lambda: take(county, "accept", report.name)] * 8)
        refusals = [f for f in found if isinstance(f, errors.Refusal)]
        assert len(refusals) == 7
        assert {r.reason for r in refusals} <= {"ACTION_NOT_ALLOWED", "CONFLICT"}
        assert [s.action for s in steps(county, report.name)] == ["file", "accept"]
        assert rows(county, "SELECT count(*) FROM mesh_outbox WHERE name = :n", n=report.name)[0][0] == 2

    def test_loses_none_of_many_reports_filed_at_once(self, county: County) -> None:
        before = written(county)
        found = together(*[lambda: file(county)] * 8)
        assert len({f.name for f in found}) == 8
        after = written(county)
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 8

    def test_lets_at_most_one_of_two_that_rely_on_each_other_pass(self, county: County) -> None:
        """Write skew: each reads what the other writes."""
        for _ in range(5):
            first, second = file(county).name, file(county).name
            pair = [(first, second), (second, first)]
            found = together(
                *(lambda a=a, b=b: take(county, "mark_duplicate", a, duplicate_of=b) for a, b in pair)
            )
            passed = [f for f in found if isinstance(f, pb.Report)]
            assert len(passed) == 1
            states = sorted(county.row(n).message.state for n in (first, second))
            assert states == [pb.Report.STATE_REPORTED, pb.Report.STATE_DUPLICATE]

    def test_guards_hold_in_the_commit_itself(self, county: County) -> None:
        """The same without handlers: two commits, each changing one row and relying on the other."""
        for _ in range(5):
            names = [file(county).name, file(county).name]
            commits = [commit_of(county, name, relied=names) for name in names]
            database_ = county.store.database
            found = together(*(lambda c=c: database_.commit(c) for c in commits))
            assert sorted(type(f).__name__ for f in found) == ["Moved", "NoneType"]
            assert sorted(county.row(n).version for n in names) == [1, 2]


def commit_of(county: County, name: str, relied: list[str], score: int = 7) -> statements.Commit:
    """A commit that raises one report's version while all of `relied` are at their first."""
    table = county.store.codec(pb.Report).table
    made = statements.Commit(REGION, "habitat", 1)
    made.held = [(table, each, 1) for each in relied]
    values = {"name": name, "version": 2, "score": score}
    made.writes = [statements.Write(table, values, "update"), outbox(county, name)]
    return made


def outbox(county: County, name: str, **values: Any) -> statements.Write:
    row = {
        "region": REGION, "epoch": 1, "incarnation": 1, "event_id": resources.uuid7(county.now), "type": "t",
        "subject": "s", "name": name, "time": county.store.instant(county.now), "trace": "",
        "audit_digest": "", "payload": b"", **values,
    }  # fmt: skip
    return statements.Write(county.store.plumbing.outbox, row)


class TestAtomicity:
    def test_leaves_nothing_when_a_later_write_fails(self, county: County) -> None:
        name = file(county).name
        made = commit_of(county, name, relied=[name])
        own = county.store.plumbing.ownership
        taken = {"region": REGION, "domain": "habitat", "epoch": 1, "incarnation": 1, "frozen": False}
        made.writes.append(statements.Write(own, taken))
        before = written(county)
        with pytest.raises(database.Taken):
            county.store.database.commit(made)
        assert written(county) == before
        assert county.row(name).message.score == 0

    def test_leaves_nothing_when_a_value_does_not_fit(self, county: County) -> None:
        name = file(county).name
        made = commit_of(county, name, relied=[name])
        made.writes.append(outbox(county, name, event_id=None))
        before = written(county)
        with pytest.raises(database.Taken):
            county.store.database.commit(made)
        assert written(county) == before

    def test_leaves_nothing_when_one_row_of_many_moved(self, county: County) -> None:
        moved, name = file(county).name, file(county).name
        take(county, "accept", moved)
        before = written(county)
        with pytest.raises(database.Moved):
            county.store.database.commit(commit_of(county, name, relied=[name, moved]))
        assert written(county) == before

    def test_leaves_nothing_when_a_row_is_not_there(self, county: County) -> None:
        name = file(county).name
        before = written(county)
        with pytest.raises(database.Moved):
            county.store.database.commit(commit_of(county, name, relied=[name, name[:-4] + "ffff"]))
        assert written(county) == before

    def test_of_one_commit_does_not_harm_those_beside_it(self, county: County) -> None:
        names = [file(county).name for _ in range(8)]
        made = [commit_of(county, name, relied=[name]) for name in names]
        for bad in made[::2]:
            bad.writes.append(outbox(county, bad.writes[0].values["name"], event_id=None))
        before = written(county)
        found = together(*(lambda c=c: county.store.database.commit(c) for c in made))
        assert [f is None for f in found] == [False, True] * 4
        assert [county.row(n).version for n in names] == [1, 2] * 4
        assert written(county)["mesh_outbox"] == before["mesh_outbox"] + 4

    def test_writes_nothing_of_a_call_whose_handler_failed(self, county: County) -> None:
        report = file(county)
        before, table = written(county), county.store.plumbing.step.name
        execute(county, f"ALTER TABLE {table} RENAME TO away")
        with pytest.raises(errors.Refusal):
            take(county, "accept", report.name)
        execute(county, f"ALTER TABLE away RENAME TO {table}")
        assert written(county) == before


class TestOwnership:
    def test_refuses_a_frozen_pair(self, county: County) -> None:
        report = file(county)
        execute(county, "UPDATE mesh_ownership SET frozen = true")
        before = written(county)
        for call in (lambda: file(county), lambda: take(county, "accept", report.name)):
            with pytest.raises(errors.NotOwnedHere) as caught:
                call()
            assert caught.value.code == errors.FAILED_PRECONDITION
        assert written(county) == before
        assert county.call("county", pb.GetReportRequest(name=report.name)) == report

    def test_refuses_a_commit_that_was_on_its_way_at_the_freeze(self, county: County) -> None:
        report = file(county)
        freeze = "UPDATE mesh_ownership SET frozen = true"
        overtake(county, lambda: execute(county, freeze))
        before = written(county)
        with pytest.raises(errors.NotOwnedHere):
            take(county, "accept", report.name)
        assert written(county) == before

    @pytest.mark.parametrize("change", ["frozen = true", "epoch = 2", "domain = 'culture'"])
    def test_is_decided_by_the_row_and_not_by_memory(self, county: County, change: str) -> None:
        name = file(county).name
        made = commit_of(county, name, relied=[name])
        execute(county, f"UPDATE mesh_ownership SET {change}")
        before = written(county)
        with pytest.raises(database.Disowned):
            county.store.database.commit(made)
        assert written(county) == before

    def test_waits_for_a_freeze_that_is_being_made(self, county: County) -> None:
        """A freeze not yet committed blocks the commit, and then refuses it."""
        name = file(county).name
        made = commit_of(county, name, relied=[name])
        own: Any = county.store.plumbing.ownership
        begun = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            def freeze(cursor: Any) -> Any:
                cursor.execute(f"UPDATE {own.name} SET frozen = true")
                late = pool.submit(commit)
                begun.wait(5)
                return late

            def commit() -> Any:
                begun.set()
                try:
                    return county.store.database.commit(made)
                except database.Disowned as refusal:
                    return refusal

            late = county.store.database.transact(freeze)
            assert isinstance(late.result(20), database.Disowned)
        assert county.row(name).version == 1

    def test_is_over_for_every_caller_when_the_freeze_returns(self, county: County) -> None:
        """Callers lock it apart from each other; whoever freezes it waits for all of them (I3)."""
        refused, begun = [threading.Event() for _ in range(8)], threading.Barrier(9)

        def write(over: threading.Event) -> None:
            begun.wait(20)
            for _ in range(2000):
                try:
                    file(county)
                except errors.NotOwnedHere:
                    over.set()
                    return

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, over) for over in refused]
            begun.wait(20)
            time.sleep(0.3)
            county.store.grants.freeze(REGION)
            there = written(county)["mesh_outbox"]
            assert all(over.wait(20) for over in refused)
            for writer in writers:
                writer.result()
        assert there >= 8
        assert written(county)["mesh_outbox"] == there

    def test_of_another_region_is_refused_to_its_own_officials(self, county: County) -> None:
        request = filing(division="360424100201")
        request.parent = "regions/360424"
        before = written(county)
        with pytest.raises(errors.Refusal) as caught:
            county.call("county", request)
        assert caught.value.reason in {"FORBIDDEN", "NOT_OWNED_HERE"}
        assert written(county) == before
