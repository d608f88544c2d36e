"""H-1 问题线索、任务交办、履职监管: a province finds something, orders a county to see to it, and checks;
what it notes about the county is its own."""

from collections.abc import Callable
from typing import Any

import pytest

from mesh import calls, errors
from services.habitat import supervision, tables
from tests.contract.test_access import write_issuers
from tests.county import PHOTO, REGION, County, issuer
from tests.habitat.people import PARENT, refusal, verbs_of
from tests.loop import rows
from village.habitat.v1 import supervision_pb2 as pb

K, T = pb.Clue, pb.SupervisionTask
PROVINCE = "regions/360000"
SUPERVISOR = {"sub": "supervisor-1", "roles": ["PA"], "organisation": None}
ABOVE: dict[str, Any] = {**SUPERVISOR, "region": "360000", "iss": issuer("360000")}
CITY: dict[str, Any] = {**ABOVE, "sub": "supervisor-2", "roles": ["CI"], "region": "360400"}


def entry(region: str) -> dict[str, str]:
    return {"issuer": issuer(region), "jwks": "jwks.json", "region": region, "highest_level": "PROVINCE"}


@pytest.fixture
def county(county: County) -> County:
    """The county, where the province's issuer is known too."""
    write_issuers(county, [entry(REGION), entry("360000")])
    return county


@pytest.fixture
def province(opened: Callable[[str], County]) -> County:
    """The province's own node."""
    found = opened("360000")
    write_issuers(found, [entry("360000")])
    return found


def task(county: County, by: dict[str, Any] = ABOVE) -> str:
    wanted = {"title": "清理河道", "category": T.CATEGORY_WASTE, "requirement": "清理北岸河道垃圾并反馈"}
    asked = pb.IssueSupervisionTaskRequest(parent=PARENT, supervision_task=wanted)
    return str(county.call("county", asked, **by).name)


def reported(county: County, by: dict[str, Any] = ABOVE) -> str:
    name = task(county, by)
    county.call("county", pb.AcceptSupervisionTaskRequest(name=name))
    done = {"outcome": "已清理", "evidence": [PHOTO]}
    county.call("county", pb.ReportBackSupervisionTaskRequest(name=name, **done))
    return name


def clue(province: County, about: str = REGION, **claims: Any) -> pb.Clue:
    wanted = {
        "about_region": about, "category": K.CATEGORY_WASTE, "source": K.SOURCE_INSPECTION,
        "description": "北岸河道有垃圾",
    }  # fmt: skip
    asked = pb.FileClueRequest(parent=PROVINCE, clue=wanted)
    filed: pb.Clue = province.call("county", asked, **{**SUPERVISOR, **claims})
    return filed


def duty(**fields: Any) -> pb.CreateDutyRecordRequest:
    wanted = {"about_region": REGION, "period": "2026-Q1", **fields}
    return pb.CreateDutyRecordRequest(parent=PROVINCE, duty_record=wanted)


class TestTasks:
    def test_is_accepted_reported_back_and_verified(self, county: County) -> None:
        name = reported(county)
        done = county.call("county", pb.VerifySupervisionTaskRequest(name=name), **ABOVE)
        assert (done.state, done.issuer_region) == (T.STATE_VERIFIED, "360000")
        assert verbs_of(county, name) == ["issued", "accepted", "reported_back", "verified"]

    def test_the_county_orders_and_verifies_nothing_itself(self, county: County) -> None:
        with pytest.raises(errors.Forbidden):
            task(county, {})
        asked = pb.VerifySupervisionTaskRequest(name=reported(county))
        assert refusal(county, "county", asked) == "FORBIDDEN"
        assert refusal(county, "county", pb.AcceptSupervisionTaskRequest(name=task(county)), **ABOVE) == (
            "FORBIDDEN"
        )

    def test_a_city_does_not_decide_on_what_its_province_issued(self, county: County) -> None:
        asked = pb.VerifySupervisionTaskRequest(name=reported(county))
        assert refusal(county, "county", asked, **CITY) == "NOT_THE_ISSUER"
        its_own = pb.VerifySupervisionTaskRequest(name=reported(county, CITY))
        assert refusal(county, "county", its_own, **ABOVE) == "OK"

    def test_is_withdrawn_by_who_issued_it(self, county: County) -> None:
        name = task(county)
        withdraw = pb.WithdrawSupervisionTaskRequest(name=name, reason="已由专班处理")
        assert refusal(county, "county", withdraw, **CITY) == "NOT_THE_ISSUER"
        assert county.call("county", withdraw, **ABOVE).state == T.STATE_WITHDRAWN
        accept = pb.AcceptSupervisionTaskRequest(name=name)
        assert refusal(county, "county", accept) == "ACTION_NOT_ALLOWED"

    def test_is_returned_once(self, county: County) -> None:
        name = task(county)
        county.call("county", pb.ReturnSupervisionTaskRequest(name=name, reason="属邻县"))
        county.call("county", pb.ReissueSupervisionTaskRequest(name=name), **ABOVE)
        again = pb.ReturnSupervisionTaskRequest(name=name, reason="属邻县")
        assert refusal(county, "county", again) == "TASK_RETURNED_BEFORE"
        kept = county.call("county", pb.GetSupervisionTaskRequest(name=name))
        assert (kept.state, kept.return_count) == (T.STATE_ISSUED, 1)

    def test_goes_back_to_work_when_it_is_not_done(self, county: County) -> None:
        name = reported(county)
        back = county.call("county", pb.SendBackSupervisionTaskRequest(name=name, reason="仍有"), **ABOVE)
        assert (back.state, back.rework_count, back.HasField("due_time")) == (T.STATE_ACCEPTED, 1, True)

    def test_rises_when_nobody_accepts_it(self, county: County) -> None:
        name = task(county)
        county.pass_time(days=5)
        county.hosted.tick()
        late = county.call("county", pb.GetSupervisionTaskRequest(name=name))
        assert (late.overdue, late.escalation_level) == (True, 4)
        urged = county.call("county", pb.UrgeSupervisionTaskRequest(name=name), **ABOVE)
        assert (urged.urge_count, urged.state) == (1, T.STATE_ISSUED)

    def test_what_supervisors_do_can_reach_the_county_later(self, county: County) -> None:
        late = {name for name, method in county.contract.methods.items() if method.deferrable}
        verbs = ("Issue", "Reissue", "Verify", "SendBack", "Urge", "Withdraw")
        assert {f"{verb}SupervisionTask" for verb in verbs} <= late

    def test_the_figures_can_be_asked_for(self, county: County) -> None:
        county.call("county", pb.VerifySupervisionTaskRequest(name=reported(county)), **ABOVE)
        task(county)
        for text, many in (
            ("accept_time:* AND state != WITHDRAWN", 1),
            ("state = VERIFIED AND NOT late_time:*", 1),
            ("return_count > 0", 0),
        ):
            asked = pb.ListSupervisionTasksRequest(parent=PARENT, filter=text)
            assert len(county.call("county", asked).supervision_tasks) == many


class TestClues:
    def test_becomes_a_task_of_the_county_in_two_steps(self, province: County) -> None:
        made = clue(province)
        province.call("county", pb.AcceptClueRequest(name=made.name), **SUPERVISOR)
        elsewhere = pb.DispatchClueRequest(name=made.name, task="regions/360424/supervisionTasks/t-1")
        with pytest.raises(errors.Invalid, match="task"):
            province.call("county", elsewhere, **SUPERVISOR)
        there = f"{PARENT}/supervisionTasks/t-1"
        sent = province.call("county", pb.DispatchClueRequest(name=made.name, task=there), **SUPERVISOR)
        assert (sent.state, sent.task) == (K.STATE_DISPATCHED, there)
        closed = province.call("county", pb.CloseClueRequest(name=made.name, outcome="已清理"), **SUPERVISOR)
        assert closed.state == K.STATE_CLOSED

    def test_is_about_a_county_below_its_supervisor(self, province: County) -> None:
        for about in ("350100", "360000"):
            with pytest.raises(errors.Invalid, match="about_region"):
                clue(province, about)

    def test_says_nothing_in_its_events(self, province: County) -> None:
        made = clue(province)
        (payload,) = rows(province, "SELECT payload FROM mesh_outbox WHERE name = :n", n=made.name)[0]
        event = pb.ClueFiled.FromString(bytes(payload))
        assert event.clue == K(name=made.name, etag="1")

    def test_a_county_holds_none(self, county: County) -> None:
        wanted = {"about_region": REGION, "category": 1, "source": 1, "description": "x"}
        asked = pb.FileClueRequest(parent=PARENT, clue=wanted)
        assert refusal(county, "county", asked) == "FORBIDDEN"
        assert refusal(county, "county", asked, **SUPERVISOR) == "INVALID"


class TestDutyRecords:
    def test_is_kept_once_for_a_county_and_period(self, province: County) -> None:
        asked = duty(assessment="按期", task_count=9)
        made = province.call("county", asked, **SUPERVISOR)
        assert (made.task_count, made.cut_off_time.seconds) == (0, int(province.now.timestamp()))
        assert refusal(province, "county", asked, **SUPERVISOR) == "ALREADY_EXISTS"
        assert refusal(province, "county", duty(period="2026-04"), **SUPERVISOR) == "INVALID"

    def test_counts_the_tasks_themselves(self, county: County) -> None:
        done, back, withdrawn, late = reported(county), reported(county), task(county), task(county)
        county.call("county", pb.AcceptSupervisionTaskRequest(name=late))
        county.call("county", pb.VerifySupervisionTaskRequest(name=done), **ABOVE)
        county.call("county", pb.SendBackSupervisionTaskRequest(name=back, reason="不到位"), **ABOVE)
        county.call("county", pb.WithdrawSupervisionTaskRequest(name=withdrawn), **ABOVE)
        returned = task(county)
        county.call("county", pb.ReturnSupervisionTaskRequest(name=returned, reason="不属本县"))
        county.pass_time(days=25)
        county.hosted.tick()
        record = pb.DutyRecord(name=f"{PROVINCE}/dutyRecords/x", about_region=REGION, period="2026-Q1")
        call = calls.own(county.store, "count", county.now)
        found = tables.duty(call, record, *supervision.span_of("2026-Q1"))
        assert found == {
            "task_count": 4, "accepted_count": 3, "verified_count": 1, "on_time_count": 1, "overdue_count": 3,
            "returned_count": 1, "sent_back_count": 1,
        }  # fmt: skip
        record.name = "regions/350000/dutyRecords/x"  # another province issued none
        assert not any(tables.duty(call, record, *supervision.span_of("2026")).values())
        record.name = f"{PROVINCE}/dutyRecords/x"
        assert not any(tables.duty(call, record, *supervision.span_of("2025-12")).values())

    @pytest.mark.parametrize(
        ("period", "start", "end"),
        [
            ("2026", "2026-01-01", "2027-01-01"),
            ("2026-Q4", "2026-10-01", "2027-01-01"),
            ("2026-12", "2026-12-01", "2027-01-01"),
            ("2026-02", "2026-02-01", "2026-03-01"),
        ],
    )
    def test_is_of_a_year_quarter_or_month_of_china(self, period: str, start: str, end: str) -> None:
        found = [bound.isoformat() for bound in supervision.span_of(period)]
        assert found == [f"{day}T00:00:00+08:00" for day in (start, end)]
