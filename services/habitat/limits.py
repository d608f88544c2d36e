"""Time limits of habitat's work other than public reports (时限规定): versioned by region and kind of work,
never constants in a flow. A flow names the action, `limits.after("accept")`; the policy that was in force
when the record was made says how long."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import policies, tables
from services.habitat.report_flow import NoPolicyInForce
from village.habitat.v1 import limit_policy_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy

Limits = Mapping[str, int | datetime.timedelta]
"""Action → working days, or natural time, within which what follows it is due."""


def after(action: str) -> flows.Limit:
    """The limit that a policy sets after an action."""

    def limit(policy: LimitPolicy, _record: Any) -> int | datetime.timedelta:
        stated = next(one for one in policy.limits if one.action == action)
        if stated.HasField("natural"):
            return stated.natural.ToTimedelta()
        return int(stated.working_days)

    return limit


def escalate_after(policy: LimitPolicy) -> int:
    """Working days between two escalations."""
    return int(policy.escalate_working_days)


def in_force(call: calls.Call, parent: str, work: str) -> LimitPolicy:
    """The policy of a region for a kind of work, by its collection, as in "serviceOrders"."""
    region = regions.region_of(resources.region_in(parent))
    name = tables.limit_policy_in_force(call, region, work, call.now)
    if not name:
        raise NoPolicyInForce(region=region)
    found: LimitPolicy = call.store.policy(LimitPolicy, name)
    return found


def handlers(areas: Sequence[Any]) -> Mapping[str, Any]:
    """The method that issues limits of the work that the areas limit."""
    known = {work: set(stated) for area in areas for work, stated in getattr(area, "LIMITS", {}).items()}

    def issue_limit_policy(request: pb.IssueLimitPolicyRequest, call: calls.Call) -> LimitPolicy:
        policy = request.limit_policy
        if policy.work not in known:
            raise errors.Invalid("limit_policy.work", f"is none of {', '.join(sorted(known))}")
        if {limit.action for limit in policy.limits} != known[policy.work]:
            wanted = ", ".join(sorted(known[policy.work]))
            raise errors.Invalid("limit_policy.limits", f"are not for exactly these actions: {wanted}")
        return policies.issue(
            policy, request.parent, call, event=pb.LimitPolicyIssued, wanted=request.limit_policy_id
        )

    return {"IssueLimitPolicy": issue_limit_policy}


def seed(call: calls.Call, defaults: Mapping[str, Limits]) -> None:
    """The platform's defaults for each kind of work, until the region issues its own."""
    for work, stated in defaults.items():
        wanted = f"default-{work.lower()}"
        if call.find(LimitPolicy, f"regions/{call.region}/limitPolicies/{wanted}") is not None:
            continue
        policy = LimitPolicy(
            work=work, effective_time=resources.stamp(resources.EPOCH), escalate_working_days=1,
            basis="platform defaults, not from a standard; a region issues its own",
            issue_time=resources.stamp(call.now),
        )  # fmt: skip
        for action, span in stated.items():
            limit = policy.limits.add(action=action)
            if isinstance(span, int):
                limit.working_days = span
            else:
                limit.natural.FromTimedelta(span)
        call.create(policy, parent=f"regions/{call.region}", event=pb.LimitPolicyIssued, wanted=wanted)


RESOURCES = (LimitPolicy,)
HANDLERS = records.handlers(pb, LimitPolicy)
