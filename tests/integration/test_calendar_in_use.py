"""Limits on the working-day calendar, what happens when one is missed, and due times counted again when a
year is announced (SM-0's time limits; the State Council's holidays with 调休), on both databases."""

import concurrent.futures
import datetime
from typing import Any

import pytest
from google.type import date_pb2

from cli.serve import service
from mesh import calendar, resources, runtime, timers
from tests.county import REGION, County
from tests.loop import execute, file, reach, rows, steps, take, written
from village.habitat.v1 import events_pb2
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import calendar_pb2
from village.type.v1 import level_pb2

TOWNSHIP, COUNTY, CITY, PROVINCE = (
    level_pb2.LEVEL_TOWNSHIP,
    level_pb2.LEVEL_COUNTY,
    level_pb2.LEVEL_CITY,
    level_pb2.LEVEL_PROVINCE,
)


def at(text: str) -> datetime.datetime:
    """An instant in Wuning: `2026-09-30 10:00`."""
    return datetime.datetime.fromisoformat(f"{text}+08:00").astimezone(datetime.UTC)


def due(report: Any) -> str:
    """The last day of a limit in Wuning."""
    end = resources.moment(report.due_time).astimezone(calendar.CHINA)
    assert (end.hour, end.minute, end.second) == (0, 0, 0)
    return f"{end - datetime.timedelta(days=1):%Y-%m-%d}"


def now_of(county: County, name: str) -> pb.Report:
    return county.call("county", pb.GetReportRequest(name=name))


def ring(county: County) -> int:
    return timers.ring(county.store, county.now)


class TestDueTime:
    @pytest.mark.parametrize(
        ("filed", "accept", "rectify"),
        [
            ("2026-03-02 10:00", "2026-03-03", "2026-03-05"),
            ("2026-03-06 10:00", "2026-03-09", "2026-03-11"),  # a Friday
            ("2026-03-03 00:30", "2026-03-04", "2026-03-06"),  # still Monday in UTC
            ("2026-03-03 23:59", "2026-03-04", "2026-03-06"),
            ("2026-09-30 10:00", "2026-10-08", "2026-10-10"),  # National Day; the 10th is a worked Saturday
            ("2026-09-19 10:00", "2026-09-20", "2026-09-22"),  # the 20th is a worked Sunday
            ("2026-02-13 10:00", "2026-02-14", "2026-02-25"),  # Spring Festival, the 14th worked
            ("2026-02-27 10:00", "2026-02-28", "2026-03-03"),  # the 28th worked
        ],
    )
    def test_counts_the_days_that_are_worked(
        self, county: County, filed: str, accept: str, rectify: str
    ) -> None:
        county.now = at(filed)
        report = file(county)
        assert (due(report), report.due_provisional) == (accept, False)
        take(county, "accept", report.name)
        assert due(take(county, "assign", report.name)) == rectify


class TestOverdue:
    def test_is_set_once_the_limit_has_passed_with_a_step_and_an_event(self, county: County) -> None:
        report = file(county)
        county.now = resources.moment(report.due_time) - datetime.timedelta(microseconds=1)
        assert ring(county) == 0
        county.pass_time(seconds=1)
        before = written(county)
        assert ring(county) == 1
        found, after = now_of(county, report.name), written(county)
        assert (found.overdue, found.state) == (True, pb.Report.STATE_REPORTED)
        assert found.late_time == report.due_time == found.due_time
        assert found.escalation_level == COUNTY
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 1
        step = steps(county, report.name)[-1]
        assert (step.action, step.actor, step.role, step.level) == ("escalate", "system", "SYS", COUNTY)
        assert (step.from_state, step.to_state) == ("REPORTED", "REPORTED")
        kind, payload = rows(county, "SELECT type, payload FROM mesh_outbox ORDER BY id DESC LIMIT 1")[0]
        assert kind == "village.habitat.v1.ReportEscalated"
        assert events_pb2.ReportEscalated.FromString(bytes(payload)).report.overdue

    def test_fires_once(self, county: County) -> None:
        file(county)
        county.pass_time(days=2)
        assert ring(county) == 1
        before = written(county)
        assert ring(county) == 0
        assert written(county) == before

    def test_fires_once_however_many_processes_ring(self, county: County) -> None:
        names = [file(county).name for _ in range(8)]
        county.pass_time(days=2)
        (other,), _ = runtime.assemble([service("habitat")], county.settings, clock=lambda: county.now)
        assert other.store is not None
        try:
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                stores = [county.store, other.store] * 2
                fired = [pool.submit(timers.ring, store, county.now) for store in stores]
                assert sum(f.result() for f in fired) == len(names)
        finally:
            other.store.database.close()
        for name in names:
            assert [s.action for s in steps(county, name)] == ["file", "escalate"]

    def test_lets_the_other_go_first_between_reading_and_writing(self, county: County) -> None:
        report = file(county)
        county.pass_time(days=2)
        real, raced = county.store.database.commit, []

        def commit(what: Any) -> None:
            if not raced:
                raced.append(True)
                assert ring(county) == 1
            real(what)

        county.store.database.commit = commit  # type: ignore[method-assign]
        assert ring(county) == 0
        assert [s.action for s in steps(county, report.name)] == ["file", "escalate"]

    def test_survives_a_restart(self, county: County) -> None:
        report = file(county)
        county.pass_time(days=2)
        (other,), _ = runtime.assemble([service("habitat")], county.settings, clock=lambda: county.now)
        assert other.store is not None
        assert timers.ring(other.store, county.now) == 1
        other.store.database.close()
        assert now_of(county, report.name).overdue

    def test_is_raised_level_by_level_up_to_the_province(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        rung = []
        for _ in range(20):
            county.pass_time(days=1)
            if ring(county):
                rung.append(f"{county.now:%m-%d}")
        # Thursday was the last day; each working day that ends without it raises it again
        assert rung == ["03-06", "03-07", "03-10", "03-11"]
        ladder = [s.level for s in steps(county, report.name) if s.action == "escalate"]
        assert ladder == [TOWNSHIP, COUNTY, CITY, PROVINCE]
        found = now_of(county, report.name)
        assert (found.late_time, found.escalation_level) == (report.due_time, PROVINCE)

    def test_ends_with_the_next_step_but_is_not_forgotten(self, county: County) -> None:
        report = file(county)
        county.pass_time(days=2)
        ring(county)
        found = take(county, "accept", report.name)
        assert (found.overdue, found.late_time) == (False, report.due_time)
        assert found.escalation_level == COUNTY
        county.pass_time(hours=1)
        assert ring(county) == 0

    def test_is_noted_by_a_late_step_even_when_no_timer_rang(self, county: County) -> None:
        report = file(county)
        county.pass_time(days=2)
        found = take(county, "accept", report.name)
        assert (found.overdue, found.late_time) == (False, report.due_time)

    @pytest.mark.parametrize("state", ["REJECTED", "DUPLICATE", "WITHDRAWN", "CLOSED", "ASSESSED"])
    def test_never_comes_where_nothing_is_due(self, county: County, state: str) -> None:
        report = reach(county, state)
        assert not report.HasField("due_time")
        execute(county, "UPDATE reports SET alarm_time = NULL WHERE state = 'REPORTED'")  # the original
        county.pass_time(days=60)
        assert ring(county) == 0

    def test_keeps_the_clock_of_the_assignment_when_work_starts(self, county: County) -> None:
        report = reach(county, "ASSIGNED")
        county.pass_time(days=2)
        assert take(county, "start", report.name).due_time == report.due_time
        county.pass_time(days=2)
        assert ring(county) == 1

    def test_waits_while_the_pair_is_frozen(self, county: County) -> None:
        report = file(county)
        county.pass_time(days=2)
        execute(county, "UPDATE mesh_ownership SET frozen = true")
        before = written(county)
        assert ring(county) == 0
        county.store.grants.read()
        assert ring(county) == 0
        assert written(county) == before
        execute(county, "UPDATE mesh_ownership SET frozen = false")
        county.store.grants.read()
        assert ring(county) == 1
        assert now_of(county, report.name).overdue


def unannounced(year: int) -> calendar_pb2.Calendar:
    """2027 as it was before the notice, whatever the library has learnt since."""
    return calendar_pb2.Calendar(year=year, provisional=True) if year >= 2027 else calendar.announced(year)


def announced(year: int) -> calendar_pb2.Calendar:
    if year != 2027:
        return unannounced(year)
    return calendar_pb2.Calendar(year=2027, days_off=[date_pb2.Date(year=2027, month=1, day=1)])


def monday_to_friday(year: int) -> calendar_pb2.Calendar:
    return calendar_pb2.Calendar(year=2027) if year == 2027 else unannounced(year)


class TestYearNotAnnounced:
    """Limits that count days of a year whose holidays are not announced are provisional."""

    @pytest.fixture(autouse=True)
    def _end_of_2026(self, county: County) -> None:
        county.now = at("2026-12-30 10:00")
        execute(county, "DELETE FROM calendars")
        county.store.refresh_calendar(REGION, county.now, known=unannounced)

    def test_makes_a_due_time_provisional_only_when_it_counts_such_days(self, county: County) -> None:
        report = file(county)
        assert (due(report), report.due_provisional) == ("2026-12-31", False)
        take(county, "accept", report.name)
        report = take(county, "assign", report.name)
        assert (due(report), report.due_provisional) == ("2027-01-04", True)

    def test_is_counted_again_once_when_it_is_announced(self, county: County) -> None:
        report, untouched = reach(county, "IN_PROGRESS"), file(county)
        assert report.due_provisional
        county.pass_time(hours=1)
        before = written(county)
        assert county.store.refresh_calendar(REGION, county.now, known=announced)
        assert timers.recount(county.store, county.now) == 1
        found, after = now_of(county, report.name), written(county)
        assert (due(found), found.due_provisional) == ("2027-01-05", False)
        assert (found.state, found.overdue) == (report.state, False)
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 1
        step = steps(county, report.name)[-1]
        assert (step.action, step.actor, step.role) == ("recount", "system", "SYS")
        assert step.due_time == found.due_time
        subject = rows(county, "SELECT subject FROM mesh_outbox ORDER BY id DESC LIMIT 1")[0][0]
        assert subject == "village.36.04.23.habitat.report.recounted"
        assert now_of(county, untouched.name) == untouched

        assert not county.store.refresh_calendar(REGION, county.now, known=announced)
        assert timers.recount(county.store, county.now) == 0
        assert written(county) == after

    def test_rings_by_the_new_due_time(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        county.store.refresh_calendar(REGION, county.now, known=announced)
        timers.recount(county.store, county.now)
        county.now = at("2027-01-05 09:00")
        assert ring(county) == 0
        county.now = at("2027-01-06 00:00")
        assert ring(county) == 0
        county.pass_time(seconds=1)
        assert ring(county) == 1
        found = now_of(county, report.name)
        assert found.late_time == found.due_time != report.due_time

    def test_keeps_each_edition_of_the_year(self, county: County) -> None:
        county.store.refresh_calendar(REGION, county.now, known=announced)
        sql = "SELECT year, edition, provisional FROM calendars ORDER BY year, edition"
        found = [(y, e, bool(p)) for y, e, p in rows(county, sql)]
        assert found == [
            (2025, 1, False), (2026, 1, False), (2027, 1, True), (2027, 2, False), (2028, 1, True),
        ]  # fmt: skip

    def test_stays_provisional_while_nothing_is_announced(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        assert not county.store.refresh_calendar(REGION, county.now, known=unannounced)
        assert timers.recount(county.store, county.now) == 0
        assert now_of(county, report.name) == report

    def test_is_no_longer_overdue_when_the_new_limit_has_not_passed(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        county.now = at("2027-01-05 09:00")
        assert ring(county) == 1
        county.store.refresh_calendar(REGION, county.now, known=announced)
        assert timers.recount(county.store, county.now) == 1
        found = now_of(county, report.name)
        assert (found.overdue, found.HasField("late_time")) == (False, False)
        assert ring(county) == 0
        county.now = at("2027-01-06 09:00")
        assert ring(county) == 1
        assert now_of(county, report.name).overdue

    def test_does_not_forgive_a_limit_missed_before(self, county: County) -> None:
        county.now = at("2026-12-28 10:00")
        report = file(county)
        county.now = at("2026-12-30 10:00")
        take(county, "accept", report.name)
        take(county, "assign", report.name)
        county.now = at("2027-01-05 09:00")
        assert ring(county) == 1
        county.store.refresh_calendar(REGION, county.now, known=announced)
        timers.recount(county.store, county.now)
        found = now_of(county, report.name)
        assert not found.overdue
        assert found.late_time == report.due_time

    def test_does_not_raise_an_overdue_report_again_when_nothing_changes_for_it(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        county.now = at("2027-01-05 09:00")
        assert ring(county) == 1
        county.store.refresh_calendar(REGION, county.now, known=monday_to_friday)
        timers.recount(county.store, county.now)
        assert ring(county) == 0
        found = now_of(county, report.name)
        assert (found.due_provisional, found.escalation_level) == (False, TOWNSHIP)
        county.now = at("2027-01-07 00:00")  # a working day after it was raised
        assert ring(county) == 1
        assert now_of(county, report.name).escalation_level == COUNTY
