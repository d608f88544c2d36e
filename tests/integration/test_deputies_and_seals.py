"""Who acts for whom (AB 岗), what is under seal and who opens it (V-12), what is erased."""

import datetime
from typing import Any

import pytest

from mesh import delegations, errors, resources, unsealing
from services.habitat import report_flow
from tests.county import PHOTO, VILLAGE_UNIT, County
from tests.loop import PARENT, ask, execute, file, reach, rows, steps, take
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import audit_pb2, delegation_pb2, unsealing_pb2

PURPOSE = "核实举报线索需联系举报人"


def give(county: County, who: str, deputy: str, days: float = 7, start: float = 0) -> Any:
    span = {
        "start_time": resources.stamp(county.now + datetime.timedelta(days=start)),
        "end_time": resources.stamp(county.now + datetime.timedelta(days=start + days)),
    }
    request = delegation_pb2.GiveDelegationRequest(parent=PARENT, delegation={"deputy": deputy, **span})
    return county.call(who, request)


def acting(county: County, who: str, principal: str, method: str, request: Any, **claims: Any) -> Any:
    """Calls as `who`, acting for `principal`."""
    headers = {
        "authorization": f"Bearer {county.token(who, **claims)}", "x-village-acting-for": principal,
    }  # fmt: skip
    raw = county.raw(method, request.SerializeToString(), headers)
    return county.contract.methods[method].response.FromString(raw)


class TestDeputy:
    def test_acts_with_what_the_official_has_and_history_names_both(self, county: County) -> None:
        report = reach(county, "ASSIGNED")
        give(county, "village", "cadre-2")
        held = {"sub": "cadre-2", "region": "360423100202", "organisation": None}
        start = ask("start", report.name)
        with pytest.raises(errors.Forbidden):
            county.call("village", start, **held)
        acting(county, "village", "cadre-1", "StartReport", start, **held)
        step = steps(county, report.name)[-1]
        assert (step.actor, step.deputy, step.organisation) == ("cadre-1", "cadre-2", VILLAGE_UNIT)
        (row,) = rows(
            county, "SELECT actor, deputy FROM mesh_audit WHERE method = 'StartReport' AND result = 'OK'"
        )
        assert tuple(row) == ("cadre-1", "cadre-2")

    def test_does_not_verify_what_he_rectified_for_another_nor_what_another_did_for_him(
        self, county: County
    ) -> None:
        county_unit = {"unit": "91360423TE5T000169", "level": 3}
        report = reach(county, "ACCEPTED")
        for verb in ("assign", "start"):
            take(county, verb, report.name, "county", **(county_unit if verb == "assign" else {}))
        give(county, "county", "officer-2")
        acting(county, "county_2", "officer-1", "RectifyReport", ask("rectify", report.name))
        for who in ("county", "county_2"):
            with pytest.raises(errors.Forbidden, match="same person"):
                take(county, "verify", report.name, who)
        give(county, "county", "officer-3")
        with pytest.raises(errors.Forbidden, match="same person"):
            acting(county, "county", "officer-1", "VerifyReport", ask("verify", report.name), sub="officer-3")
        other = county.call("county", ask("verify", report.name), sub="officer-9")
        assert other.state == pb.Report.STATE_VERIFIED

    def test_counts_from_its_start_to_its_end_and_until_it_is_taken_back(self, county: County) -> None:
        given = give(county, "county", "officer-2", days=2, start=1)
        request = pb.GetReportRequest(name=file(county).name)

        def may() -> bool:
            county.store._recent.clear()  # at most a second old otherwise
            try:
                acting(county, "county_2", "officer-1", "GetReport", request, roles=["GR"])
            except errors.Forbidden:
                return False
            return True

        assert not may()
        county.pass_time(days=1)
        assert may()
        county.call("county", delegation_pb2.RevokeDelegationRequest(name=given.name))
        assert not may()
        give(county, "county", "officer-2", days=2)
        assert may()
        county.pass_time(days=2)
        assert not may()

    def test_is_nobody_without_a_delegation_of_the_same_issuer(self, county: County) -> None:
        give(county, "county", "officer-2")
        request = pb.GetReportRequest(name=file(county).name)
        for who, principal in (
            ("county_2", "officer-7"),
            ("neighbour", "officer-1"),
            ("county", "officer-1"),
        ):
            with pytest.raises(errors.Forbidden, match="nobody made the caller a deputy"):
                acting(county, who, principal, "GetReport", request)
        execute(county, "UPDATE delegations SET issuer = 'https://elsewhere.invalid'")
        county.store._recent.clear()
        with pytest.raises(errors.Forbidden):
            acting(county, "county_2", "officer-1", "GetReport", request)

    def test_is_never_one_of_the_three_officers(self, county: County) -> None:
        give(county, "county", "sec-1")
        with pytest.raises(errors.Forbidden):
            acting(county, "security", "officer-1", "GetReport", pb.GetReportRequest(name=file(county).name))

    def test_does_not_pass_it_on_and_nobody_deputises_for_himself(self, county: County) -> None:
        give(county, "county", "officer-2")
        span = {
            "start_time": resources.stamp(county.now),
            "end_time": resources.stamp(county.now + datetime.timedelta(1)),
        }
        request = delegation_pb2.GiveDelegationRequest(parent=PARENT, delegation={"deputy": "x", **span})
        with pytest.raises(delegations.DeputiesDoNotDelegate):
            acting(county, "county_2", "officer-1", "GiveDelegation", request)
        with pytest.raises(delegations.DeputyOfOneself):
            give(county, "county", "officer-1")
        for days, start in ((367, 0), (-1, 0), (1, -3)):
            with pytest.raises(errors.Invalid, match=r"delegation\.end_time"):
                give(county, "county", "officer-2", days, start)

    @pytest.mark.parametrize("roles", [["SEC", "KA"], ["AUD", "ADM"], ["ADM", "CZ"]])
    def test_officers_hold_no_other_role(self, county: County, roles: list[str]) -> None:
        with pytest.raises(errors.Unauthenticated, match="holds no other role"):
            county.call("county", pb.GetReportRequest(name=file(county).name), roles=roles)


def seal(county: County, record: str, who: str = "county") -> str:
    request = unsealing_pb2.RequestUnsealingRequest(
        parent=PARENT, unsealing={"record": record, "purpose": PURPOSE}
    )
    return str(county.call(who, request).name)


def approve(county: County, name: str, who: str = "security", hours: int = 2) -> Any:
    return county.call(who, unsealing_pb2.ApproveUnsealingRequest(name=name, valid_hours=hours))


def opened(county: County, name: str, who: str = "county") -> dict[str, str]:
    answer = county.call(who, unsealing_pb2.OpenUnsealingRequest(name=name, purpose="电话回访"))
    return {value.path: value.text for value in answer.values}


CONTACT = {"person_name": "欧阳娜娜", "phone": "13800138000"}


class TestUnsealing:
    def test_gives_the_reporter_and_the_contact_to_who_asked_once_a_second_approved(
        self, county: County
    ) -> None:
        report = file(county, contact=CONTACT)
        assert (report.reporter, report.contact.phone) == ("", "138****8000")
        name = seal(county, report.name)
        with pytest.raises(unsealing.UnsealingNotApproved):
            opened(county, name)
        assert approve(county, name).approver == "sec-1"
        assert opened(county, name) == {
            "contact.person_name": "欧阳娜娜", "contact.phone": "13800138000", "reporter": "resident-1",
        }  # fmt: skip
        said = rows(
            county, f"SELECT method, purpose, actor FROM mesh_audit WHERE name = '{report.name}' ORDER BY id"
        )
        assert tuple(said[-1]) == ("OpenUnsealing", "电话回访", "officer-1")

    def test_is_closed_to_everybody_else_and_after_its_time(self, county: County) -> None:
        name = seal(county, file(county).name)
        approve(county, name, hours=1)
        for who in ("county_2", "security", "audit"):
            with pytest.raises(errors.Forbidden):
                opened(county, name, who)
        county.pass_time(hours=1)
        with pytest.raises(unsealing.UnsealingOver):
            opened(county, name)

    def test_needs_a_second_person(self, county: County) -> None:
        name = seal(county, file(county).name)
        for who in ("county", "county_2", "administrator", "audit"):
            with pytest.raises(errors.Forbidden):
                approve(county, name, who)
        county.call("security", unsealing_pb2.RefuseUnsealingRequest(name=name))
        with pytest.raises(unsealing.UnsealingDecided):
            approve(county, name)
        with pytest.raises(unsealing.UnsealingNotApproved):
            opened(county, name)

    def test_is_of_a_record_that_has_something_under_seal(self, county: County) -> None:
        for record in (
            f"{PARENT}/reportPolicies/default",
            "regions/360424/reports/x",
            f"{PARENT}/reports/none",
        ):
            with pytest.raises(errors.Invalid, match=r"unsealing\.record"):
                seal(county, record)

    def test_is_kept_under_keys_of_its_own(self, county: County) -> None:
        file(county, contact=CONTACT)
        ((reporter, contact),) = rows(county, "SELECT reporter, contact FROM reports")
        assert "resident-1" not in str(reporter)
        assert "13800138000" not in str(contact)
        with pytest.raises(ValueError, match="open"):
            county.store.rings.data.decrypt(reporter, f"{PARENT}/reports/x/reporter")


class TestErasure:
    def test_empties_record_and_history_and_leaves_events_and_audit(self, county: County) -> None:
        report = reach(county, "ASSESSED", contact=CONTACT, photos=[PHOTO], description="家在北岸村口")
        before = rows(county, "SELECT id, payload FROM mesh_outbox ORDER BY id")
        trail = rows(county, "SELECT id, digest FROM mesh_audit ORDER BY id")
        erased = county.call("resident", pb.EraseReportRequest(name=report.name, purpose="本人申请"))
        assert (erased.description, erased.feedback, len(erased.photos)) == ("", "", 0)
        assert not erased.HasField("contact")
        assert erased.HasField("erase_time")
        assert {step.reason for step in steps(county, report.name)} == {""}
        assert (
            rows(county, "SELECT count(*) FROM mesh_attached WHERE name = '" + report.name + "'")[0][0] == 1
        )
        after = rows(county, "SELECT id, payload FROM mesh_outbox ORDER BY id")
        assert [(i, bytes(p)) for i, p in after[: len(before)]] == [(i, bytes(p)) for i, p in before]
        assert rows(county, "SELECT id, digest FROM mesh_audit ORDER BY id")[: len(trail)] == trail
        name = seal(county, report.name)
        approve(county, name)
        assert opened(county, name) == {}

    def test_waits_until_nobody_works_on_it(self, county: County) -> None:
        name = reach(county, "IN_PROGRESS").name
        with pytest.raises(report_flow.StillOpen):
            county.call("security", pb.EraseReportRequest(name=name, purpose="申请"))


class TestAuditTrail:
    def test_is_the_auditor_s_to_read_and_holds_refused_calls(self, county: County) -> None:
        report = file(county)
        for _ in range(3):
            with pytest.raises(errors.Forbidden):
                county.call("neighbour", pb.GetReportRequest(name=report.name))
        county.hosted.tick()
        request = audit_pb2.ListAuditEntriesRequest(parent=PARENT, record=report.name)
        entries = county.call("audit", request).entries
        told = [(e.method, e.result, e.count) for e in entries]
        assert told == [("FileReport", "OK", 1), ("GetReport", "FORBIDDEN", 3)]
        assert entries[1].actor.startswith("sealed:")
        assert all(e.seal == 1 for e in county.call("audit", request).entries)
        for who in ("county", "administrator", "security"):
            with pytest.raises(errors.Forbidden):
                county.call(who, request)
        first = audit_pb2.ListAuditEntriesRequest(parent=PARENT, page_size=1)
        page = county.call("audit", first)
        first.page_token = page.next_page_token
        assert page.entries[0].number < county.call("audit", first).entries[0].number
