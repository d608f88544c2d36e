"""What supervisors above the county do to a report (督办: 催办、退回重办), on both databases."""

import pytest

from mesh import errors, resources
from tests.contract.test_access import write_issuers
from tests.county import REGION, County, issuer
from tests.loop import WAYS, file, reach, steps
from village.habitat.v1 import report_pb2 as pb

FINISHED = ("REJECTED", "DUPLICATE", "CLOSED", "ASSESSED", "WITHDRAWN")
SUPERVISOR = {"sub": "supervisor-1", "roles": ["PA"]}


@pytest.fixture
def county(county: County) -> County:
    """The county, whose issuer vouches for supervisors too."""
    entry = {"issuer": issuer(REGION), "jwks": "jwks.json", "region": REGION, "highest_level": "PROVINCE"}
    write_issuers(county, [entry])
    return county


def urge(county: County, name: str) -> pb.Report:
    return county.call("county", pb.UrgeReportRequest(name=name, reason="尽快办理"), **SUPERVISOR)


def reopen(county: County, name: str) -> pb.Report:
    return county.call("county", pb.ReopenReportRequest(name=name, reason="现场仍有垃圾"), **SUPERVISOR)


@pytest.mark.parametrize("state", [state for state in WAYS if state not in FINISHED])
def test_urging_is_seen_and_moves_nothing(county: County, state: str) -> None:
    before = reach(county, state)
    for count in (1, 2):
        urged = urge(county, before.name)
        assert (urged.state, urged.due_time, urged.urge_count) == (before.state, before.due_time, count)
        assert resources.moment(urged.urge_time) == county.now
    step = steps(county, before.name)[-1]
    assert (step.action, step.actor, step.role, step.reason) == ("urge", "supervisor-1", "PA", "尽快办理")


@pytest.mark.parametrize("state", FINISHED)
def test_nobody_is_urged_when_all_is_done(county: County, state: str) -> None:
    report = reach(county, state)
    with pytest.raises(errors.ActionNotAllowed):
        urge(county, report.name)


@pytest.mark.parametrize("state", ["VERIFIED", "FEEDBACK_SENT", "CLOSED"])
def test_what_is_sent_back_runs_against_the_clock_again(county: County, state: str) -> None:
    before = reach(county, state)
    sent = reopen(county, before.name)
    assert (sent.state, sent.rework_count) == (pb.Report.STATE_IN_PROGRESS, before.rework_count + 1)
    assert not sent.HasField("close_time")
    limit, _ = county.store.calendar.due(county.now, 3)  # a village's working days
    assert resources.moment(sent.due_time) == limit
    step = steps(county, before.name)[-1]
    assert (step.action, step.from_state, step.to_state) == ("reopen", state, "IN_PROGRESS")


def test_the_county_s_own_do_neither(county: County) -> None:
    report = file(county)
    for request in (
        pb.UrgeReportRequest(name=report.name, reason="x"),
        pb.ReopenReportRequest(name=report.name, reason="x"),
    ):
        with pytest.raises(errors.Forbidden):
            county.call("county", request)
