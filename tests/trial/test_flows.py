"""Flows (状态机) with everything they can say: causes that stop the clock, extensions, natural time,
evidence, timers that fire once whoever looks; and random walks, in which history explains state."""

import datetime
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from mesh import errors, flows, identity, resources, timers
from services.habitat.report_flow import FLOW
from tests.county import PHOTO, County
from tests.loop import execute, rows
from tests.trial import domain
from tests.trial.domain import PARENT
from village.type.v1 import step_pb2

MIDNIGHT_AFTER_MONDAY = datetime.datetime(2026, 3, 2, 16, tzinfo=datetime.UTC)


def opened(trial: County, **fields: Any) -> Any:
    return trial.call("county", domain.messages().OpenCaseRequest(parent=PARENT, case=fields))


def act(trial: County, case: Any, action: str, **fields: Any) -> Any:
    request = domain.messages().ActOnCaseRequest(name=case.name, action=action, **fields)
    return trial.call("county", request)


def due(case: Any) -> datetime.datetime:
    return resources.moment(case.due_time)


class TestLimits:
    def test_count_working_days_to_the_midnight_that_ends_the_last(self, trial: County) -> None:
        assert due(opened(trial)) == MIDNIGHT_AFTER_MONDAY + datetime.timedelta(days=3)

    def test_may_be_natural_time(self, trial: County) -> None:
        assert due(opened(trial, natural=True)) == trial.now + datetime.timedelta(hours=3)

    @pytest.mark.parametrize("natural", [True, False])
    def test_move_by_an_extension(self, trial: County, natural: bool) -> None:
        case = opened(trial, natural=natural)
        moved = act(trial, case, "extend")
        more = datetime.timedelta(hours=2) if natural else datetime.timedelta(days=4)  # over a weekend
        assert due(moved) - due(case) == more


class TestClock:
    def test_stops_for_listed_causes_only(self, trial: County) -> None:
        case = opened(trial)
        for cause in ("", "holiday"):
            with pytest.raises(flows.CauseNotListed, match="appraisal, rain"):
                act(trial, case, "stop", cause=cause)
        stopped = act(trial, case, "stop", cause="rain")
        assert stopped.HasField("stop_time")
        assert rows(trial, "SELECT cause FROM mesh_step WHERE action = 'stop'") == [("rain",)]

    def test_gives_back_the_days_it_stood(self, trial: County) -> None:
        case = opened(trial)
        act(trial, case, "stop", cause="rain")
        trial.pass_time(days=7)  # five of them working days
        resumed = act(trial, case, "resume")
        assert due(resumed) - due(case) == datetime.timedelta(days=7)

    def test_gives_back_natural_time_to_the_microsecond(self, trial: County) -> None:
        case = opened(trial, natural=True)
        trial.pass_time(hours=1)
        act(trial, case, "stop", cause="rain")
        trial.pass_time(minutes=17, microseconds=3)
        assert due(act(trial, case, "resume")) - due(case) == datetime.timedelta(minutes=17, microseconds=3)

    def test_does_not_ring_while_it_stands_and_does_afterwards(self, trial: County) -> None:
        case = opened(trial, natural=True)
        act(trial, case, "stop", cause="rain")
        trial.pass_time(days=30)
        assert timers.ring(trial.store, trial.now) == 0
        act(trial, case, "resume")
        trial.pass_time(hours=4)
        assert timers.ring(trial.store, trial.now) == 1

    def test_stands_still_for_every_step_but_what_ends_it(self, trial: County) -> None:
        case = opened(trial)
        act(trial, case, "stop", cause="rain")
        with pytest.raises(errors.ActionNotAllowed, match="its clock stopped"):
            act(trial, case, "stop", cause="rain")
        dropped = act(trial, case, "drop")
        assert not dropped.HasField("stop_time")
        with pytest.raises(errors.ActionNotAllowed):
            act(trial, case, "resume")


class TestEvidence:
    def test_is_required_where_the_flow_says_so(self, trial: County) -> None:
        case = opened(trial)
        with pytest.raises(flows.EvidenceMissing) as caught:
            act(trial, case, "finish")
        assert caught.value.metadata == {"name": case.name, "action": "finish", "field": "evidence"}
        assert act(trial, case, "finish", evidence=[PHOTO]).state == domain.messages().Case.STATE_DONE


class TestTimers:
    def test_fire_once_whoever_looks_and_after_a_restart(self, trial: County, database_url: str) -> None:
        case = opened(trial, natural=True)
        trial.pass_time(hours=4)
        other = County(trial.folder, database_url, domain.service())
        try:
            fired = [timers.ring(s.store, trial.now) for s in (trial, other, trial, other)]
        finally:
            other.close()
        assert fired == [1, 0, 0, 0]
        assert rows(trial, "SELECT count(*) FROM mesh_step WHERE action = 'escalate'")[0][0] == 1
        assert rows(trial, "SELECT late_time FROM cases")[0][0] is not None
        assert case.name

    def test_replay_with_a_clock_of_the_tester_s(self, trial: County) -> None:
        """Village to province in five working days' missed limits, and never further."""
        opened(trial, handling_level=1)
        levels = []
        for _ in range(60):
            trial.pass_time(hours=12)
            timers.ring(trial.store, trial.now)
            level = rows(trial, "SELECT escalation_level FROM cases")[0][0]
            if not levels or levels[-1] != level:
                levels.append(level)
        assert levels == ["UNSPECIFIED", "TOWNSHIP", "COUNTY", "CITY", "PROVINCE"]

    def test_wait_while_the_pair_is_frozen(self, trial: County) -> None:
        opened(trial, natural=True)
        trial.pass_time(hours=4)
        execute(trial, "UPDATE mesh_ownership SET frozen = true")
        assert timers.ring(trial.store, trial.now) == 0
        execute(trial, "UPDATE mesh_ownership SET frozen = false")
        trial.store.grants.read()
        assert timers.ring(trial.store, trial.now) == 1


def explained(steps: list[step_pb2.Step], flow: flows.Flow) -> str:
    """The state that a history leads to, worked out from nothing but its steps and the flow's table."""
    state = ""
    for step in steps:
        action = flow.actions[step.action]
        assert step.from_state == state
        if action.target is None:
            assert step.to_state == state
        else:
            allowed = {flow.state_name(s) for s in action.sources} or {""}
            assert state in allowed
            state = flow.state_name(action.target)
            assert step.to_state == state
    return state


class TestRandomWalks:
    """Whatever is tried in whatever order: what is refused changes nothing, and history explains state."""

    @hypothesis.settings(
        max_examples=25, deadline=None, derandomize=True, database=None,
        suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @hypothesis.given(
        st.lists(
            st.tuples(
                st.sampled_from(["finish", "drop", "reopen", "stop", "resume", "extend"]),
                st.integers(0, 100),
            ),
            max_size=12,
        ),
        st.booleans(),
    )
    def test_of_a_flow_with_a_clock(self, trial: County, tried: list[tuple[str, int]], natural: bool) -> None:
        flow = domain.flow()
        case = opened(trial, natural=natural)
        for action, hours in tried:
            trial.pass_time(hours=hours)
            timers.ring(trial.store, trial.now)
            before = self.kept(trial, case)
            try:
                act(trial, case, action, cause="rain" if action == "stop" else "", evidence=[PHOTO])
            except errors.Refusal:
                assert self.kept(trial, case) == before
        row = trial.store.row(trial.store.codec(type(case)), case.name)
        assert row is not None
        steps = trial.store.history(case.name)
        assert [s.number for s in steps] == list(range(1, row.version + 1))
        assert explained(steps, flow) == flow.state_name(row.message.state)
        if row.message.state in flow.open_states() and not row.message.HasField("stop_time"):
            policy = trial.store.policy(flow.policy, row.message.policy)
            around = flows.Circumstances(identity.SYSTEM, trial.now, trial.store.calendar, policy)
            if row.message.state != domain.messages().Case.STATE_DONE:
                assert flows.due_by(flow, row.message, steps, around)[0] == due(row.message)
        assert row.message.state in flow.open_states() or not row.message.HasField("due_time")

    @staticmethod
    def kept(trial: County, case: Any) -> Any:
        row = trial.store.row(trial.store.codec(type(case)), case.name)
        assert row is not None
        return row.message.SerializeToString(deterministic=True), len(trial.store.history(case.name))


class TestDiagram:
    def test_draws_every_edge_and_every_end(self) -> None:
        drawn = flows.diagram(FLOW)
        edges = {
            (FLOW.state_name(s) if s else "[*]", FLOW.state_name(a.target), verb)
            for verb, a in FLOW.actions.items()
            if a.target is not None
            for s in (a.sources or {0})
        }
        for before, after, verb in edges:
            assert f"    {before} --> {after}: {verb}\n" in drawn
        ends = {after for _, after, _ in edges} - {before for before, _, _ in edges}
        assert {line.split()[0] for line in drawn.splitlines() if line.endswith("[*]")} == ends
        overlays = [verb for verb, a in FLOW.actions.items() if a.target is None]
        assert f"in place: {', '.join(overlays)}" in drawn

    def test_of_no_flow_has_an_action_that_nothing_reaches(self) -> None:
        for flow in (FLOW, domain.flow()):
            reached = {a.target for a in flow.actions.values() if a.target is not None}
            for action in flow.actions.values():
                assert action.sources <= reached
            assert next(iter(flow.actions.values())).target is not None
