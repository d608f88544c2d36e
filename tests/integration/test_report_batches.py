"""Many actions on reports in one call (批量办理): each by itself, or all or none; on both databases."""

import uuid
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from mesh import errors
from services.habitat import report_flow
from tests.county import REGION, VILLAGE_UNIT, County
from tests.loop import PARENT, ask, execute, file, reach, rows, steps, take, written
from village.habitat.v1 import report_pb2 as pb

FIELDS = {"return": "return_back", "send_back": "verify"}


def batch(*actions: tuple[str, str], all_or_nothing: bool = False, **fields: Any) -> Any:
    """A request of (verb, name) pairs."""
    made = [pb.ReportAction(**{FIELDS.get(verb, verb): ask(verb, name)}) for verb, name in actions]
    return pb.BatchActOnReportsRequest(parent=PARENT, actions=made, all_or_nothing=all_or_nothing, **fields)


def states(county: County, *names: str) -> list[str]:
    found = [county.row(name).message.state for name in names]
    return [pb.Report.State.Name(state).removeprefix("STATE_") for state in found]


def reason_of(refusal: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert next(d for d in refusal.details if d.Is(info.DESCRIPTOR)).Unpack(info)
    return str(info.reason)


class TestEachByItself:
    def test_says_of_each_in_order_what_became_of_it(self, county: County) -> None:
        good, done, other = file(county), reach(county, "ACCEPTED"), file(county)
        missing = f"{PARENT}/reports/{uuid.uuid4()}"
        before = written(county)
        request = batch(
            ("accept", good.name), ("accept", done.name), ("accept", missing), ("assess", good.name),
            ("start", good.name), ("accept", other.name),
        )  # fmt: skip
        results = county.call("county", request).results
        outcomes = [r.WhichOneof("outcome") for r in results]
        assert outcomes == ["report", "refusal", "refusal", "refusal", "refusal", "report"]
        assert [results[0].report.name, results[5].report.name] == [good.name, other.name]
        refusals = [results[i].refusal for i in (1, 2, 3, 4)]
        assert [r.code for r in refusals] == [9, 5, 9, 7]
        expected = ["ACTION_NOT_ALLOWED", "NOT_FOUND", "ACTION_NOT_ALLOWED", "FORBIDDEN"]
        assert [reason_of(r) for r in refusals] == expected
        after = written(county)
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 2

    def test_masks_the_contact_in_its_answer(self, county: County) -> None:
        report = file(county, contact={"person_name": "欧阳娜娜", "phone": "13812348000"})
        for together in (False, True):
            verb = "assign" if together else "accept"
            answer = county.call("county", batch((verb, report.name), all_or_nothing=together))
            contact = answer.results[0].report.contact
            assert (contact.person_name, contact.phone) == ("欧**娜", "138****8000")

    def test_takes_several_steps_on_one_report(self, county: County) -> None:
        report = file(county)
        answer = county.call("county", batch(("accept", report.name), ("assign", report.name)))
        assert [r.report.state for r in answer.results] == [
            pb.Report.STATE_ACCEPTED,
            pb.Report.STATE_ASSIGNED,
        ]
        assert [r.report.etag for r in answer.results] == ["2", "3"]

    def test_records_each_as_if_it_had_been_called_by_itself(self, county: County) -> None:
        report = file(county)
        county.call("county", batch(("accept", report.name)))
        step = steps(county, report.name)[-1]
        assert (step.action, step.actor, step.role) == ("accept", "officer-1", "KA")
        assert rows(county, "SELECT method FROM mesh_audit ORDER BY id DESC LIMIT 1")[0][0] == "AcceptReport"

    def test_takes_a_request_id_of_each_action(self, county: County) -> None:
        report = file(county)
        request = batch(("accept", report.name))
        request.actions[0].accept.request_id = str(uuid.uuid4())
        first = county.call("county", request)
        before = written(county)
        assert county.call("county", request) == first
        assert written(county) == before


class TestAllOrNothing:
    def test_writes_all_in_one_commit(self, county: County) -> None:
        names = [file(county).name for _ in range(3)]
        before, commits = written(county), []
        real = county.store.database.commit
        county.store.database.commit = lambda c: (commits.append(c), real(c))[1]  # type: ignore[method-assign]
        answer = county.call("county", batch(*(("accept", n) for n in names), all_or_nothing=True))
        assert [r.report.name for r in answer.results] == names
        assert (len(commits), states(county, *names)) == (1, ["ACCEPTED"] * 3)
        after = written(county)
        for table in ("mesh_outbox", "mesh_audit", "mesh_step"):
            assert after[table] == before[table] + 3

    @pytest.mark.parametrize("bad", ["refused", "missing", "forbidden"])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_writes_nothing_when_one_is_refused(self, county: County, bad: str, place: int) -> None:
        actions = [("accept", file(county).name) for _ in range(2)]
        action, refusal = {
            "refused": (("close", file(county).name), errors.ActionNotAllowed),
            "missing": (("accept", f"{PARENT}/reports/{uuid.uuid4()}"), errors.NotFound),
            "forbidden": (("start", reach(county, "ASSIGNED").name), errors.Forbidden),
        }[bad]
        actions.insert(place, action)
        before = written(county)
        with pytest.raises(refusal):
            county.call("county", batch(*actions, all_or_nothing=True))
        assert written(county) == before

    def test_writes_nothing_when_one_report_moved_for_good(self, county: County) -> None:
        first, second = file(county).name, file(county).name
        request = batch(("accept", first), ("accept", second), all_or_nothing=True)
        request.actions[1].accept.etag = "1"
        real, raced = county.store.database.commit, []

        def commit(what: Any) -> None:
            if not raced:
                raced.append(True)
                take(county, "reject", second)
            real(what)

        county.store.database.commit = commit  # type: ignore[method-assign]
        with pytest.raises(errors.Conflict):
            county.call("county", request)
        assert states(county, first, second) == ["REPORTED", "REJECTED"]

    def test_takes_several_steps_on_one_report_in_order(self, county: County) -> None:
        report = file(county)
        request = batch(("accept", report.name), ("assign", report.name), all_or_nothing=True)
        answer = county.call("county", request)
        assert [r.report.state for r in answer.results] == [
            pb.Report.STATE_ACCEPTED,
            pb.Report.STATE_ASSIGNED,
        ]
        assert county.row(report.name).version == 3
        found = steps(county, report.name)
        assert [(s.number, s.action) for s in found] == [(1, "file"), (2, "accept"), (3, "assign")]
        # events go out in the order of their ids, so the order in one commit counts too
        sql = "SELECT type FROM mesh_outbox WHERE name = :n ORDER BY id"
        kinds = [kind.rpartition(".")[2] for (kind,) in rows(county, sql, n=report.name)]
        assert kinds == ["ReportFiled", "ReportAccepted", "ReportAssigned"]
        sql = "SELECT before_digest, after_digest FROM mesh_audit WHERE name = :n ORDER BY id"
        digests = rows(county, sql, n=report.name)
        assert [d[0] for d in digests[1:]] == [d[1] for d in digests[:-1]]

    def test_refuses_the_same_verb_twice_on_one_report(self, county: County) -> None:
        report = file(county)
        request = batch(("accept", report.name), ("accept", report.name), all_or_nothing=True)
        before = written(county)
        with pytest.raises(errors.ActionNotAllowed):
            county.call("county", request)
        assert written(county) == before

    def test_refuses_two_that_are_duplicates_of_each_other(self, county: County) -> None:
        first, second = file(county).name, file(county).name
        pair = [(first, second), (second, first)]
        marks = [pb.ReportAction(mark_duplicate=ask("mark_duplicate", a, duplicate_of=b)) for a, b in pair]
        before = written(county)
        with pytest.raises(report_flow.OriginalIsDuplicate):
            county.call(
                "county",
                pb.BatchActOnReportsRequest(parent=PARENT, actions=marks, all_or_nothing=True),
            )
        assert written(county) == before

    def test_gives_the_first_answer_to_a_repeated_request_id(self, county: County) -> None:
        names = [file(county).name for _ in range(2)]
        actions, request_id = [("accept", n) for n in names], str(uuid.uuid4())
        request = batch(*actions, all_or_nothing=True, request_id=request_id)
        first = county.call("county", request)
        take(county, "assign", names[0])
        before = written(county)
        assert county.call("county", request) == first
        with pytest.raises(errors.Invalid) as caught:
            county.call("county", batch(actions[0], all_or_nothing=True, request_id=request_id))
        assert caught.value.metadata["field"] == "request_id"
        assert written(county) == before

    def test_takes_two_hundred(self, county: County) -> None:
        names = [file(county).name for _ in range(200)]
        answer = county.call("county", batch(*(("accept", n) for n in names), all_or_nothing=True))
        assert [r.report.name for r in answer.results] == names
        assert set(states(county, *names)) == {"ACCEPTED"}


@pytest.mark.parametrize("all_or_nothing", [False, True])
class TestPermission:
    """Each action is permitted as if it had been called by itself."""

    def outcome(self, county: County, who: str, request: Any, **claims: Any) -> str:
        try:
            answer = county.call(who, request, **claims)
        except errors.Refusal as refusal:
            return refusal.reason
        (result,) = answer.results
        return reason_of(result.refusal) if result.HasField("refusal") else "OK"

    @pytest.mark.parametrize(
        ("who", "state", "verb", "expected"),
        [
            ("village", "REPORTED", "accept", "FORBIDDEN"),
            ("village", "ASSIGNED", "start", "OK"),
            ("town", "ASSIGNED", "start", "FORBIDDEN"),
            ("town", "CLOSED", "assess", "FORBIDDEN"),
            ("town", "REPORTED", "accept", "OK"),
            ("other_town", "REPORTED", "accept", "FORBIDDEN"),
            ("county", "REPORTED", "withdraw", "FORBIDDEN"),
            ("village", "RECTIFIED", "verify", "FORBIDDEN"),
            ("resident", "REPORTED", "withdraw", "FORBIDDEN"),
            ("inspector", "REPORTED", "accept", "FORBIDDEN"),
        ],
    )
    def test_is_asked_for_each(
        self, county: County, all_or_nothing: bool, who: str, state: str, verb: str, expected: str
    ) -> None:
        report = reach(county, state)
        before = written(county)
        request = batch((verb, report.name), all_or_nothing=all_or_nothing)
        assert self.outcome(county, who, request) == expected
        assert (written(county) == before) == (expected != "OK")

    def test_refuses_the_handler_and_the_village_s_own_unit(
        self, county: County, all_or_nothing: bool
    ) -> None:
        report = reach(county, "RECTIFIED")
        request = batch(("verify", report.name), all_or_nothing=all_or_nothing)
        own = {"sub": "cadre-2", "organisation": VILLAGE_UNIT}
        assert self.outcome(county, "town", request, **own) == "VERIFIED_BY_OWN_UNIT"
        assert self.outcome(county, "town", request, sub="cadre-1") == "FORBIDDEN"
        assert self.outcome(county, "town", request) == "OK"

    def test_refuses_a_name_of_another_county_and_says_which(
        self, county: County, all_or_nothing: bool
    ) -> None:
        good = file(county).name
        request = batch(("accept", good), ("reject", good.replace(REGION, "360424")),
                        all_or_nothing=all_or_nothing)  # fmt: skip
        before = written(county)
        with pytest.raises(errors.Invalid) as caught:
            county.call("county", request)
        assert caught.value.metadata["field"] == "actions[1].reject.name"
        assert written(county) == before

    def test_names_the_action_whose_field_is_wrong(self, county: County, all_or_nothing: bool) -> None:
        good = file(county).name
        request = batch(("accept", good), ("assess", good), ("reject", good), all_or_nothing=all_or_nothing)
        request.actions[1].assess.score = 101
        request.actions[2].reject.reason = ""
        with pytest.raises(errors.Invalid) as caught:
            county.call("county", request)
        fields = [field for field, _ in caught.value.violations]
        assert fields == ["actions[1].assess.score", "actions[2].reject.reason"]

    def test_is_refused_as_a_whole_when_the_pair_is_frozen(
        self, county: County, all_or_nothing: bool
    ) -> None:
        report = file(county)
        execute(county, "UPDATE mesh_ownership SET frozen = true")
        before = written(county)
        request = batch(("accept", report.name), all_or_nothing=all_or_nothing)
        assert self.outcome(county, "county", request) == "NOT_OWNED_HERE"
        assert written(county) == before


class TestShape:
    def test_takes_one_to_two_hundred_actions_each_stated(self, county: County) -> None:
        name = file(county).name
        for actions in ([], [("accept", name)] * 201):
            with pytest.raises(errors.Invalid) as caught:
                county.call("county", batch(*actions))
            assert caught.value.metadata["field"] == "actions"
        empty = pb.BatchActOnReportsRequest(parent=PARENT, actions=[pb.ReportAction()])
        with pytest.raises(errors.Invalid) as caught:
            county.call("county", empty)
        assert caught.value.metadata["field"] == "actions[0].action"
