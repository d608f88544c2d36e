"""The flow of SM-0 as data, without a database: what its table says, and what rings and recounts do."""

import dataclasses
import datetime
from typing import Any

import pytest

from mesh import calendar, contract, errors, flows, identity, resources
from services.habitat import policies
from services.habitat.report_flow import FLOW, rectify_limit
from village.habitat.v1.report_pb2 import Report
from village.habitat.v1.report_policy_pb2 import ReportPolicy
from village.mesh.v1 import calendar_pb2
from village.type.v1 import level_pb2, step_pb2

NOW = datetime.datetime(2026, 3, 2, 2, 0, tzinfo=datetime.UTC)
FINAL = {"REJECTED", "DUPLICATE", "ASSESSED", "WITHDRAWN"}


def policy() -> ReportPolicy:
    """The platform's defaults."""

    class Seeding:
        region, now = "360423", NOW
        made: Any = None

        def find(self, *_: Any) -> None:
            return None

        def create(self, message: Any, **_: Any) -> None:
            self.made = message

    seeding = Seeding()
    policies.seed(seeding)  # type: ignore[arg-type]
    return seeding.made  # type: ignore[no-any-return]


def around(now: datetime.datetime = NOW, provisional: bool = False, history: Any = ()) -> flows.Circumstances:
    years = [calendar_pb2.Calendar(year=2026, provisional=provisional)]
    return flows.Circumstances(identity.SYSTEM, now, calendar.of(years), policy(), lambda: history)


def report(state: int, **fields: Any) -> Report:
    return Report(name="regions/360423/reports/x", state=state, **fields)


class TestFlow:
    def test_stops_the_start_when_a_field_of_a_clock_is_missing(self) -> None:
        stopping = {"stop": flows.Action(event=Report, stops=frozenset({"rain"}))}
        with pytest.raises(contract.BadContract, match=r"Step .*lacks .*'overdue'.*'stop_time'"):
            dataclasses.replace(FLOW, resource=step_pb2.Step, actions={**FLOW.actions, **stopping})

    @pytest.mark.parametrize("action", [flows.ESCALATE, flows.RECOUNT])
    def test_stops_the_start_without_what_the_plumbing_does_by_itself(self, action: str) -> None:
        without = {name: a for name, a in FLOW.actions.items() if name != action}
        with pytest.raises(contract.BadContract, match=action):
            dataclasses.replace(FLOW, actions=without)

    def test_has_no_way_out_of_its_final_states(self) -> None:
        left = {FLOW.state_name(s) for s in FLOW.open_states()}
        every = {v.name.removeprefix("STATE_") for v in Report.State.DESCRIPTOR.values if v.number}
        assert every - left == FINAL

    def test_reaches_closed_only_through_verified(self) -> None:
        """SM-0: closing without verification is illegal."""
        edges = {(s, a.target) for a in FLOW.actions.values() for s in a.sources if a.target}
        reached, before = {Report.STATE_REPORTED}, set()
        while reached != before:
            before = set(reached)
            reached |= {t for s, t in edges if s in reached and t != Report.STATE_VERIFIED}
        assert Report.STATE_CLOSED not in reached
        assert Report.STATE_FEEDBACK_SENT not in reached
        assert Report.STATE_RECTIFIED in reached

    def test_files_first(self) -> None:
        assert next(iter(FLOW.actions)) == "file"


class TestTake:
    def test_refuses_and_leaves_the_message_as_it_was(self) -> None:
        message = report(Report.STATE_CLOSED)
        before = message.SerializeToString()
        with pytest.raises(errors.ActionNotAllowed) as caught:
            flows.take(FLOW, "accept", message, around(), None)
        said = {"name": message.name, "action": "accept", "state": "CLOSED", "possible": "assess, reopen"}
        assert caught.value.metadata == said
        assert message.SerializeToString() == before

    def test_sets_the_next_alarm_to_the_due_time(self) -> None:
        message = report(Report.STATE_REPORTED)
        taken = flows.take(FLOW, "accept", message, around(), None)
        assert taken.alarm == resources.moment(message.due_time)
        done = report(Report.STATE_FEEDBACK_SENT, due_provisional=True, overdue=True)
        assert flows.take(FLOW, "close", done, around(), NOW).alarm is None
        assert not done.due_provisional
        assert not done.overdue

    def test_is_late_a_microsecond_after_the_due_time(self) -> None:
        for late in (0, 1):
            message = report(Report.STATE_REPORTED, due_time=resources.stamp(NOW))
            now = NOW + datetime.timedelta(microseconds=late)
            flows.take(FLOW, "accept", message, around(now), None)
            assert message.HasField("late_time") == bool(late)


class TestRing:
    @pytest.mark.parametrize(
        ("handling", "before", "after"), [(0, 0, 3), (1, 0, 2), (2, 0, 3), (3, 0, 4), (1, 4, 5), (5, 0, 5)]
    )
    def test_raises_one_level_above_the_highest_so_far(self, handling: int, before: int, after: int) -> None:
        message = report(
            Report.STATE_ASSIGNED, handling_level=handling, escalation_level=before,
            due_time=resources.stamp(NOW),
        )  # fmt: skip
        taken = flows.ring(FLOW, message, around(), NOW)
        assert message.escalation_level == taken.step.level == after
        assert (taken.alarm is None) == (after == level_pb2.LEVEL_PROVINCE)


class TestRecount:
    def history(self, message: Report, provisional: bool) -> list[Any]:
        taken = flows.take(FLOW, "accept", message, around(provisional=provisional), None)
        start = flows.step_pb2.Step(action="escalate", time=resources.stamp(NOW))
        return [taken.step, start]

    def test_counts_from_the_step_that_set_the_limit(self) -> None:
        message = report(Report.STATE_REPORTED)
        history = self.history(message, provisional=True)
        assert message.due_provisional
        later = around(NOW + datetime.timedelta(hours=3), history=history)
        taken = flows.recount(FLOW, message, later, None)
        assert taken is not None
        assert (taken.step.action, message.due_provisional) == ("recount", False)

    def test_does_nothing_when_nothing_changes(self) -> None:
        message = report(Report.STATE_REPORTED)
        history = self.history(message, provisional=False)
        before = message.SerializeToString()
        assert flows.recount(FLOW, message, around(history=history), None) is None
        assert message.SerializeToString() == before


class TestRectifyLimit:
    def test_takes_the_next_lower_level_where_none_is_stated(self) -> None:
        limits = {level: rectify_limit(policy(), Report(handling_level=level)) for level in range(1, 6)}
        assert limits == {1: 3, 2: 5, 3: 7, 4: 7, 5: 7}
