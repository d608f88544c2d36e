"""The report loop (H-9, H-1, SM-0) through the whole chain, on both databases: every verb from every
state, who may take it, and what is kept of it."""

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from mesh import audit, errors, resources
from services.habitat import report_flow
from services.habitat.report_flow import FLOW
from tests.county import COUNTY_UNIT, MONDAY, PEOPLE, REGION, TOWN_UNIT, VILLAGE, VILLAGE_UNIT, County
from tests.loop import (
    AT_VILLAGE,
    FAILED,
    PARENT,
    PHOTO,
    VERBS,
    WAYS,
    ask,
    execute,
    file,
    reach,
    rows,
    steps,
    take,
    written,
)
from village.habitat.v1 import events_pb2
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import level_pb2

TUESDAY, WEDNESDAY, THURSDAY = "03-03T16:00", "03-04T16:00", "03-05T16:00"
NEXT_TUESDAY = "03-10T16:00"
"""Midnights in Wuning that end these days, in UTC."""
MOVES: dict[tuple[str, str], tuple[str, str]] = {
    ("REPORTED", "accept"): ("ACCEPTED", TUESDAY),
    ("REPORTED", "reject"): ("REJECTED", ""),
    ("REPORTED", "mark_duplicate"): ("DUPLICATE", ""),
    ("REPORTED", "withdraw"): ("WITHDRAWN", ""),
    ("ACCEPTED", "assign"): ("ASSIGNED", THURSDAY),
    ("ACCEPTED", "withdraw"): ("WITHDRAWN", ""),
    ("ASSIGNED", "return"): ("RETURNED", TUESDAY),
    ("ASSIGNED", "start"): ("IN_PROGRESS", THURSDAY),
    ("ASSIGNED", "withdraw"): ("WITHDRAWN", ""),
    ("RETURNED", "assign"): ("ASSIGNED", THURSDAY),
    ("RETURNED", "withdraw"): ("WITHDRAWN", ""),
    ("IN_PROGRESS", "rectify"): ("RECTIFIED", WEDNESDAY),
    ("IN_PROGRESS", "withdraw"): ("WITHDRAWN", ""),
    ("RECTIFIED", "verify"): ("VERIFIED", TUESDAY),
    ("RECTIFIED", "send_back"): ("IN_PROGRESS", THURSDAY),
    ("VERIFIED", "send_feedback"): ("FEEDBACK_SENT", NEXT_TUESDAY),
    ("FEEDBACK_SENT", "dispute"): ("IN_PROGRESS", THURSDAY),
    ("FEEDBACK_SENT", "close"): ("CLOSED", ""),
    ("CLOSED", "assess"): ("ASSESSED", ""),
}
"""SM-0 as the domain reference states it, A.9 included: (state, verb) → (state, due on the first Monday's
morning). What is not here is not allowed."""

REOPENED = ("VERIFIED", "FEEDBACK_SENT", "CLOSED")
"""From here a supervisor above the county sends a report back."""
UNIT_BOUND = {"return", "start", "rectify"}
SUBJECT_WORDS = {
    "accept": "accepted", "reject": "rejected", "mark_duplicate": "marked_duplicate", "assign": "assigned",
    "return": "returned", "start": "started", "rectify": "rectified", "verify": "verified",
    "send_back": "sent_back", "send_feedback": "feedback_sent", "dispute": "disputed", "close": "closed",
    "assess": "assessed", "withdraw": "withdrawn",
}  # fmt: skip


def state_of(report: pb.Report) -> str:
    return pb.Report.State.Name(report.state).removeprefix("STATE_")


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"2026-{text}:00+00:00")


def due_of(message: Any) -> str:
    return f"{resources.moment(message.due_time):%m-%dT%H:%M}" if message.HasField("due_time") else ""


def refused(county: County, refusal: type[errors.Refusal], call: Callable[[], Any]) -> errors.Refusal:
    """The call is refused so, and nothing at all is written."""
    before = written(county)
    with pytest.raises(refusal) as caught:
        call()
    assert written(county) == before
    return caught.value


class TestFileReport:
    """H-9 上报."""

    def test_answers_with_a_name_a_state_and_a_due_time(self, county: County) -> None:
        report = file(county)
        assert report.state == pb.Report.STATE_REPORTED
        assert report.due_time.ToDatetime().isoformat() == "2026-03-03T16:00:00"
        assert county.call("resident", pb.GetReportRequest(name=report.name)) == report

    def test_ignores_what_only_the_service_sets(self, county: County) -> None:
        forged = file(
            county, name=f"{PARENT}/reports/x", state=pb.Report.STATE_CLOSED, score=100, overdue=True,
            handler="somebody", etag="9", handling_unit=VILLAGE_UNIT, feedback="x", dispute_count=-1,
        )  # fmt: skip
        assert forged.name != f"{PARENT}/reports/x"
        assert (forged.state, forged.score, forged.overdue, forged.etag) == (1, 0, False, "1")
        assert (forged.handler, forged.handling_unit, forged.feedback, forged.dispute_count) == (
            "",
            "",
            "",
            0,
        )

    def test_refuses_a_time_that_lies_ahead_beyond_a_clock_s_error(self, county: County) -> None:
        ahead = resources.stamp(county.now + datetime.timedelta(seconds=31))
        refusal = refused(county, errors.Invalid, lambda: file(county, observe_time=ahead))
        assert refusal.metadata["field"] == "report.observe_time"
        file(county, observe_time=resources.stamp(county.now + datetime.timedelta(seconds=29)))

    def test_refuses_a_division_of_another_county(self, county: County) -> None:
        refusal = refused(county, errors.Invalid, lambda: file(county, division="360424100201"))
        assert refusal.metadata["field"] == "report.division"

    def test_answers_exactly_what_it_keeps(self, county: County) -> None:
        seen = resources.stamp(MONDAY)
        seen.nanos = 123_456_789
        report = file(county, observe_time=seen, photos=[PHOTO], contact={"person_name": "张三"})
        assert county.call("resident", pb.GetReportRequest(name=report.name)) == report

    def test_refuses_when_no_policy_is_in_force(self, county: County) -> None:
        execute(county, "DELETE FROM report_policies")
        refused(county, report_flow.NoPolicyInForce, lambda: file(county))


class TestLoop:
    """SM-0, whole."""

    def test_states_and_verbs_are_those_of_the_service(self) -> None:
        assert {f"STATE_{s}" for s in WAYS} == set(pb.Report.State.keys()) - {"STATE_UNSPECIFIED"}
        others = {"file", "escalate", "recount", "reopen"}  # and the overlays, which have tests of their own
        overlays = {verb for verb, action in FLOW.actions.items() if action.target is None}
        assert set(VERBS) | others | overlays == set(FLOW.actions)

    @pytest.mark.parametrize("state", WAYS)
    def test_refuses_every_verb_that_sm_0_does_not_have_there(self, county: County, state: str) -> None:
        report, original = reach(county, state), file(county)
        for verb in VERBS:
            if (state, verb) in MOVES:
                continue
            more = {"duplicate_of": original.name} if verb == "mark_duplicate" else {}
            nobody_s = verb in UNIT_BOUND and not report.handling_unit
            refusal = refused(
                county,
                errors.Forbidden if nobody_s else errors.ActionNotAllowed,
                lambda v=verb, m=more: take(county, v, report.name, **m),
            )
            if not nobody_s:
                assert (refusal.code, refusal.reason) == (errors.FAILED_PRECONDITION, "ACTION_NOT_ALLOWED")
                assert refusal.metadata["state"] == state
                possible = {v for s, v in MOVES if s == state} | ({"reopen"} if state in REOPENED else set())
                assert set(refusal.metadata["possible"].split(", ")) == (possible or {"none"})

    @pytest.mark.parametrize(("state", "verb"), MOVES)
    def test_takes_each_verb_with_one_step_one_event_and_one_audit_row(
        self, county: County, state: str, verb: str
    ) -> None:
        target, due = MOVES[state, verb]
        report = reach(county, state)
        more = {"duplicate_of": file(county).name} if verb == "mark_duplicate" else {}
        before, (_, who, said) = written(county), VERBS[verb]

        answer = take(county, verb, report.name, **more)

        assert (state_of(answer), due_of(answer)) == (target, due)
        assert int(answer.etag) == int(report.etag) + 1 == county.row(report.name).version
        assert county.call("county", pb.GetReportRequest(name=report.name)) == answer
        after = written(county)
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 1
        step, person = steps(county, report.name)[-1], PEOPLE[who]
        assert (step.number, step.action) == (int(answer.etag), verb)
        assert (step.from_state, step.to_state, due_of(step)) == (state, target, due)
        assert resources.moment(step.time) == county.now
        assert step.reason == said.get("reason", "")
        assert step.role == person.get("roles", ["KA"])[0]
        assert step.organisation == (person.get("organisation", COUNTY_UNIT) or "")
        assert step.actor.startswith("sealed:") if who == "resident" else step.actor == person["sub"]
        self._one_audit_row(county, answer, step, verb)

    def _one_audit_row(self, county: County, answer: pb.Report, step: Any, verb: str) -> None:
        found = rows(county, "SELECT * FROM mesh_audit ORDER BY id DESC LIMIT 1")[0]._mapping
        assert (found["actor"], found["role"], found["name"]) == (step.actor, step.role, answer.name)
        assert found["method"] == VERBS[verb][0].__name__.removesuffix("Request")
        assert found["result"] == "OK"
        assert found["before_digest"] != found["after_digest"] == county.row(answer.name).digest
        moment = resources.instant(resources.when(found["time"]), sqlite=True)
        assert audit.digest(dict(found), moment) == found["digest"]
        event = rows(county, "SELECT * FROM mesh_outbox ORDER BY id DESC LIMIT 1")[0]._mapping
        assert event["subject"] == f"village.36.04.23.habitat.report.{SUBJECT_WORDS[verb]}"
        assert (event["name"], event["audit_digest"]) == (answer.name, found["digest"])
        assert event["number"] is None

    def test_keeps_the_history_from_first_to_last(self, county: County) -> None:
        report = reach(county, "ASSESSED")
        found = steps(county, report.name)
        assert [s.number for s in found] == list(range(1, 10))
        assert [s.action for s in found] == ["file", *WAYS["ASSESSED"]]
        assert [s.to_state for s in found[:-1]] == [s.from_state for s in found[1:]]
        page = county.call("county", pb.ListReportStepsRequest(parent=report.name, page_size=4))
        again = pb.ListReportStepsRequest(parent=report.name, page_size=9, page_token=page.next_page_token)
        rest = county.call("county", again)
        assert [*page.steps, *rest.steps] == found
        assert not rest.next_page_token


class TestAssignReport:
    @pytest.mark.parametrize(
        ("level", "due"), [(1, "03-05"), (2, "03-09"), (3, "03-11"), (4, "03-11"), (5, "03-11")]
    )
    def test_gives_each_level_its_limit(self, county: County, level: int, due: str) -> None:
        report = reach(county, "ACCEPTED")
        assert due_of(take(county, "assign", report.name, level=level)) == f"{due}T16:00"

    def test_refuses_a_unit_whose_check_character_is_wrong(self, county: County) -> None:
        report = reach(county, "ACCEPTED")
        wrong = VILLAGE_UNIT[:-1] + "T"
        refusal = refused(county, errors.Invalid, lambda: take(county, "assign", report.name, unit=wrong))
        assert refusal.metadata["field"] == "unit"

    def test_records_level_and_unit_in_the_step(self, county: County) -> None:
        step = steps(county, reach(county, "ASSIGNED").name)[-1]
        assert (step.level, step.unit) == (level_pb2.LEVEL_VILLAGE, VILLAGE_UNIT)


class TestHandlingUnit:
    @pytest.mark.parametrize(
        ("state", "verb"), [("ASSIGNED", "return"), ("ASSIGNED", "start"), ("IN_PROGRESS", "rectify")]
    )
    def test_alone_may_return_start_and_rectify(self, county: County, state: str, verb: str) -> None:
        report = reach(county, state)
        for who in ("county", "town"):
            refused(county, errors.Forbidden, lambda w=who: take(county, verb, report.name, who=w))
        same_village_other_unit = {"organisation": TOWN_UNIT}
        refused(
            county,
            errors.Forbidden,
            lambda: county.call("village", ask(verb, report.name), **same_village_other_unit),
        )
        refused(
            county,
            errors.Forbidden,
            lambda: county.call("village", ask(verb, report.name), organisation=None),
        )

    def test_of_a_report_that_no_unit_has_is_nobody(self, county: County) -> None:
        report = reach(county, "ACCEPTED")
        refused(
            county,
            errors.Forbidden,
            lambda: county.call("county", ask("start", report.name), organisation=None),
        )


class TestReturnReport:
    def test_refuses_a_second_time(self, county: County) -> None:
        report = reach(county, "RETURNED")
        again = take(county, "assign", report.name)
        assert again.return_count == 1
        refused(county, report_flow.ReturnAlreadyUsed, lambda: take(county, "return", report.name))

    def test_is_allowed_until_one_working_day_has_passed(self, county: County) -> None:
        first, second = reach(county, "ASSIGNED"), reach(county, "ASSIGNED")
        county.now = at(TUESDAY)
        take(county, "return", first.name)
        county.pass_time(microseconds=1)
        refused(county, report_flow.ReturnTooLate, lambda: take(county, "return", second.name))

    def test_counts_from_the_last_assignment(self, county: County) -> None:
        report = reach(county, "ACCEPTED")
        county.pass_time(days=3)
        take(county, "assign", report.name)
        assert take(county, "return", report.name).return_count == 1


class TestVerifyReport:
    def test_refuses_the_handler(self, county: County) -> None:
        """SM-0: VERIFIED by someone other than the handler."""
        report = reach(county, "ACCEPTED")
        take(county, "assign", report.name, level=level_pb2.LEVEL_TOWNSHIP, unit=TOWN_UNIT)
        for verb in ("start", "rectify"):
            take(county, verb, report.name, who="town")
        for verb in ("verify", "send_back"):
            refused(county, errors.Forbidden, lambda v=verb: take(county, v, report.name, who="town"))
        colleague = county.call("town", ask("verify", report.name), sub="clerk-2")
        assert state_of(colleague) == "VERIFIED"

    @pytest.mark.parametrize("verb", ["verify", "send_back"])
    def test_refuses_the_unit_of_a_village_that_handled_it(self, county: County, verb: str) -> None:
        """A.9: what a village handles, its town verifies."""
        report = reach(county, "RECTIFIED")
        own = {"sub": "cadre-2", "organisation": VILLAGE_UNIT}
        refusal = refused(
            county,
            report_flow.VerifiedByOwnUnit,
            lambda: county.call("town", ask(verb, report.name), **own),
        )
        assert refusal.reason == "VERIFIED_BY_OWN_UNIT"
        refused(county, errors.Forbidden, lambda: take(county, verb, report.name, who="village"))

    def test_sends_back_to_work_and_counts_it(self, county: County) -> None:
        report = reach(county, "RECTIFIED")
        first = take(county, "send_back", report.name)
        assert (state_of(first), first.rework_count) == ("IN_PROGRESS", 1)
        county.pass_time(hours=1)
        take(county, "rectify", report.name)
        second = take(county, "send_back", report.name)
        assert (second.rework_count, second.rework_time) == (2, first.rework_time)

    def test_needs_a_reason_when_it_did_not_pass(self, county: County) -> None:
        report = reach(county, "RECTIFIED")
        refusal = refused(
            county, errors.Invalid, lambda: take(county, "verify", report.name, result=FAILED, reason="")
        )
        assert refusal.metadata["field"] == "reason"


class TestDisputeReport:
    """A.9: the reporter disputes once, within 5 working days."""

    def test_is_for_the_reporter_alone(self, county: County) -> None:
        report = reach(county, "FEEDBACK_SENT")
        for who in ("neighbour", "village", "county", "town"):
            refused(county, errors.Forbidden, lambda w=who: take(county, "dispute", report.name, who=w))

    def test_is_open_for_five_working_days(self, county: County) -> None:
        first, second = reach(county, "FEEDBACK_SENT"), reach(county, "FEEDBACK_SENT")
        county.now = at("03-09T16:00")
        answer = take(county, "dispute", first.name)
        assert (answer.dispute_count, answer.rework_count) == (1, 1)
        county.pass_time(microseconds=1)
        refused(county, report_flow.DisputeTooLate, lambda: take(county, "dispute", second.name))

    def test_refuses_a_second_time(self, county: County) -> None:
        report = reach(county, "FEEDBACK_SENT")
        for verb in ("dispute", "rectify", "verify", "send_feedback"):
            take(county, verb, report.name)
        refused(county, report_flow.DisputeAlreadyUsed, lambda: take(county, "dispute", report.name))


class TestWithdrawReport:
    def test_is_for_the_reporter_alone(self, county: County) -> None:
        report = file(county)
        for who in ("neighbour", "village", "county", "town"):
            refused(county, errors.Forbidden, lambda w=who: take(county, "withdraw", report.name, who=w))

    def test_lets_a_village_withdraw_what_it_filed_itself(self, county: County) -> None:
        report = file(county, "village")
        assert state_of(take(county, "withdraw", report.name, who="village")) == "WITHDRAWN"


class TestMarkReportDuplicate:
    def test_refuses_a_report_as_its_own_original(self, county: County) -> None:
        name = file(county).name
        refused(
            county,
            report_flow.DuplicateOfItself,
            lambda: take(county, "mark_duplicate", name, duplicate_of=name),
        )

    def test_refuses_a_duplicate_as_original_and_names_the_true_one(self, county: County) -> None:
        first, second, third = (file(county).name for _ in range(3))
        take(county, "mark_duplicate", second, duplicate_of=first)
        refusal = refused(
            county,
            report_flow.OriginalIsDuplicate,
            lambda: take(county, "mark_duplicate", third, duplicate_of=second),
        )
        assert refusal.metadata["original"] == first

    def test_refuses_an_original_that_is_not_here(self, county: County) -> None:
        name = file(county).name
        for other in (name.replace(REGION, "360424"), f"{PARENT}/reports/{resources.uuid7(county.now)}"):
            refusal = refused(
                county,
                errors.Invalid,
                lambda o=other: take(county, "mark_duplicate", name, duplicate_of=o),
            )
            assert refusal.metadata["field"] == "duplicate_of"

    def test_notices_that_the_original_became_a_duplicate_meanwhile(self, county: County) -> None:
        first, second, third = (file(county).name for _ in range(3))
        database, real, raced = county.store.database, county.store.database.commit, []

        def commit(what: Any) -> None:
            if not raced:
                raced.append(True)
                take(county, "mark_duplicate", second, duplicate_of=third)
            real(what)

        database.commit = commit  # type: ignore[method-assign]
        with pytest.raises(report_flow.OriginalIsDuplicate):
            take(county, "mark_duplicate", first, duplicate_of=second)
        assert state_of(county.row(first).message) == "REPORTED"
        assert raced


class TestAssessReport:
    def test_takes_0_to_100_from_the_county_alone(self, county: County) -> None:
        report = reach(county, "CLOSED")
        for score in (-1, 101):
            refusal = refused(
                county, errors.Invalid, lambda s=score: take(county, "assess", report.name, score=s)
            )
            assert refusal.metadata["field"] == "score"
        refused(county, errors.Forbidden, lambda: take(county, "assess", report.name, who="town"))
        assert take(county, "assess", report.name, score=100).score == 100


PLANTED = ("MARK-DESCRIPTION", "MARK-REASON", "MARK-FEEDBACK", "欧阳娜娜", "13812348000")
CONTACT = {"person_name": "欧阳娜娜", "phone": "13812348000"}


def life(county: County) -> list[pb.Report]:
    """Every answer in a whole life in which personal data was planted wherever it may be."""
    answers = [file(county, description="MARK-DESCRIPTION", contact=CONTACT)]
    name = answers[0].name
    for i, verb in enumerate(
        (*WAYS["RECTIFIED"], "send_back", "rectify", "verify", "send_feedback", "dispute")
    ):
        said = {"feedback": "MARK-FEEDBACK"} if verb == "send_feedback" else {"reason": "MARK-REASON"}
        said["request_id"] = f"00000000-0000-4000-8000-{i:012d}"
        answers += [take(county, verb, name, **said), take(county, verb, name, **said)]
    answers.append(county.call("county", pb.GetReportRequest(name=name)))
    answers.append(county.call("resident", pb.GetReportRequest(name=name)))
    answers += county.call("county", pb.ListReportsRequest(parent=PARENT)).reports
    return answers


class TestPersonalData:
    """C4: masked by default, encrypted at rest; I7."""

    def test_is_masked_in_every_answer(self, county: County) -> None:
        for answer in life(county):
            assert (answer.contact.person_name, answer.contact.phone) == ("欧**娜", "138****8000")
        two = file(county, contact={"person_name": "张三", "phone": "13812348000"})
        assert two.contact.person_name == "张*"

    def test_is_not_readable_in_the_database(self, county: County) -> None:
        life(county)
        tables = county.store.metadata.sorted_tables
        kept = "\n".join(str(tuple(r)) for t in tables for r in rows(county, f"SELECT * FROM {t.name}"))
        raw = b"".join(p.read_bytes() for p in county.folder.glob("habitat.db*"))
        assert "AssignReport" in kept
        assert county.store.sqlite == (b"AssignReport" in raw)
        for text in PLANTED:
            assert text not in kept
            assert text.encode() not in raw
            assert text.encode("unicode_escape") not in raw

    def test_does_not_stand_in_events(self, county: County) -> None:
        life(county)
        found = rows(county, "SELECT type, payload FROM mesh_outbox WHERE name LIKE '%/reports/%'")
        for kind, payload in found:
            cls = getattr(events_pb2, kind.rpartition(".")[2])
            event = cls.FromString(bytes(payload))
            assert not event.report.description
            assert not event.report.feedback
            assert not event.step.reason
            assert (event.report.contact.person_name, event.report.contact.phone) == ("欧**娜", "138****8000")
            assert event.report.etag == str(event.step.number)
            for text in PLANTED:
                assert text.encode() not in bytes(payload)
        assert len(found) == 10

    def test_does_not_slip_into_events_in_fields_that_are_not_known(self, county: County) -> None:
        report = pb.Report(
            category=1, description="x", division=VILLAGE, location={"latitude": 29.26, "longitude": 115.1},
            contact={"person_name": "张三"},
        )  # fmt: skip
        unknown = b"\xc2\x3e\x0b13812348000"  # field 1000, a string
        inside = report.SerializeToString() + unknown
        raw = pb.FileReportRequest(parent=PARENT).SerializeToString()
        raw += b"\x12" + bytes([len(inside)]) + inside
        headers = {"authorization": f"Bearer {county.token('resident')}"}
        answer = county.raw("FileReport", raw, headers)
        assert pb.Report.FromString(answer).name
        (payload,) = rows(county, "SELECT payload FROM mesh_outbox ORDER BY id DESC LIMIT 1")[0]
        assert b"13812348000" not in bytes(payload)

    def test_of_a_resident_stands_in_the_history_as_a_sealed_reference(self, county: County) -> None:
        report = reach(county, "WITHDRAWN")
        actors = {step.actor for step in steps(county, report.name)}
        assert len(actors) == 1
        assert actors.pop().startswith("sealed:")
        kept = str([tuple(r) for t in ("mesh_step", "mesh_audit", "reports")
                    for r in rows(county, f"SELECT * FROM {t}")])  # fmt: skip
        assert "resident-1" not in kept
        assert county.row(report.name).owner != county.row(file(county, "neighbour").name).owner


class TestEveryAnswer:
    def test_names_the_policy_it_is_under(self, county: County) -> None:
        assert file(county).policy == f"{PARENT}/reportPolicies/default"

    def test_names_the_unit_it_was_assigned_to(self, county: County) -> None:
        report = reach(county, "ASSIGNED")
        assert report.handling_unit == VILLAGE_UNIT
        assert report.handling_unit_title == AT_VILLAGE["unit_title"]


class TestCloseReport:
    def test_waits_until_the_reporter_can_no_longer_dispute(self, county: County) -> None:
        """A.9: without the dispute, mass supervision is empty."""
        report = reach(county, "FEEDBACK_SENT")
        close = ask("close", report.name)
        refused(county, report_flow.DisputeStillPossible, lambda: county.call("county", close))
        county.now = resources.moment(report.feedback_time) + datetime.timedelta(days=7, hours=13)
        refused(county, report_flow.DisputeStillPossible, lambda: county.call("county", close))
        county.pass_time(hours=2)
        closed = county.call("county", close)
        assert closed.state == pb.Report.STATE_CLOSED
        assert not closed.HasField("late_time")

    def test_does_not_wait_for_a_dispute_that_was_used(self, county: County) -> None:
        report = reach(county, "FEEDBACK_SENT")
        for verb in ("dispute", "rectify", "verify", "send_feedback"):
            take(county, verb, report.name)
        assert county.call("county", ask("close", report.name)).state == pb.Report.STATE_CLOSED
