"""Time limits of reports (时限规定): versioned by county, never constants in code."""

from typing import TypeVar

from google.protobuf.message import Message

from mesh import calls, errors, regions, resources
from village.habitat.v1 import events_pb2
from village.habitat.v1.report_policy_pb2 import (
    GetReportPolicyRequest,
    IssueReportPolicyRequest,
    ListReportPoliciesRequest,
    ListReportPoliciesResponse,
    ReportPolicy,
)
from village.type.v1 import level_pb2

P = TypeVar("P", bound=Message)


class EffectiveTimePassed(errors.Refused):
    en = "a policy cannot take effect in the past ({effective_time})"
    zh = "时限规定不得追溯生效"


def issue(policy: P, parent: str, call: calls.Call, *, event: type[Message], wanted: str) -> P:
    """Issues a policy of any kind from a time to come on."""
    effective = resources.moment(policy.effective_time)  # type: ignore[attr-defined]
    if effective < call.now:
        raise EffectiveTimePassed(effective_time=effective.isoformat())
    policy.issue_time.CopyFrom(resources.stamp(call.now))  # type: ignore[attr-defined]
    return call.create(policy, parent=parent, event=event, wanted=wanted)


def issue_report_policy(request: IssueReportPolicyRequest, call: calls.Call) -> ReportPolicy:
    return issue(
        request.report_policy, request.parent, call, event=events_pb2.ReportPolicyIssued,
        wanted=request.report_policy_id,
    )  # fmt: skip


def get_report_policy(request: GetReportPolicyRequest, call: calls.Call) -> ReportPolicy:
    return call.load(ReportPolicy, request.name)


def list_report_policies(request: ListReportPoliciesRequest, call: calls.Call) -> ListReportPoliciesResponse:
    return call.page(ReportPolicy, request, ListReportPoliciesResponse)


def seed(call: calls.Call) -> None:
    """The platform's defaults, until the county issues its own: 1 working day to accept, 3, 5 and 7 for
    village, township and county (SM-0; local values, not from a standard)."""
    if regions.level(call.region) != level_pb2.LEVEL_COUNTY:
        return  # reports are a county's
    if call.find(ReportPolicy, f"regions/{call.region}/reportPolicies/default") is not None:
        return
    village, township, county = (
        level_pb2.LEVEL_VILLAGE,
        level_pb2.LEVEL_TOWNSHIP,
        level_pb2.LEVEL_COUNTY,
    )
    policy = ReportPolicy(
        effective_time=resources.stamp(resources.EPOCH),
        basis="platform defaults, not from a standard; a county issues its own",
        accept_working_days=1,
        assign_working_days=1,
        return_working_days=1,
        verify_working_days=2,
        feedback_working_days=1,
        dispute_working_days=5,
        escalate_working_days=1,
        extension_working_days=10,
        rectify_limits=[
            ReportPolicy.LevelLimit(level=level, working_days=days)
            for level, days in ((village, 3), (township, 5), (county, 7))
        ],
        issue_time=resources.stamp(call.now),
    )
    parent = f"regions/{call.region}"
    call.create(policy, parent=parent, event=events_pb2.ReportPolicyIssued, wanted="default")


RESOURCES = (ReportPolicy,)
HANDLERS = {
    "IssueReportPolicy": issue_report_policy,
    "GetReportPolicy": get_report_policy,
    "ListReportPolicies": list_report_policies,
}
