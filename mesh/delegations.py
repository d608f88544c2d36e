"""Deputies (AB 岗): an official lets somebody act for him during a span of time. Separate from `identity`,
which knows tokens only; here a record of the domain's own says who stands in for whom."""

import dataclasses
import datetime
from typing import Any

import sqlalchemy as sa

from mesh import calls, errors, identity, resources
from mesh.store import Store
from village.mesh.v1 import delegation_pb2 as pb
from village.mesh.v1.delegation_pb2 import Delegation

LONGEST = datetime.timedelta(days=366)


class DeputyOfOneself(errors.Refused):
    """Nobody stands in for himself."""

    en = "{deputy} cannot stand in for himself"
    zh = "不能授权本人代理本人"


class DeputiesDoNotDelegate(errors.Refused):
    """What was given to a deputy is not passed on."""

    en = "a deputy cannot pass on what {principal} gave him"
    zh = "代理人不得转授权"


def give_delegation(request: pb.GiveDelegationRequest, call: calls.Call) -> Delegation:
    """Gives what the caller has, as his token states it."""
    given, caller = request.delegation, call.caller
    if caller.deputy:
        raise DeputiesDoNotDelegate(principal=caller.subject)
    if given.deputy == caller.subject:
        raise DeputyOfOneself(deputy=given.deputy)
    start, end = resources.moment(given.start_time), resources.moment(given.end_time)
    if not call.now < end or not start < end <= start + LONGEST:
        raise errors.Invalid("delegation.end_time", "lies ahead, after start_time, by a year at most")
    given.principal, given.place, given.organisation = caller.subject, caller.region, caller.organisation
    given.issuer = caller.issuer
    given.roles[:] = sorted(caller.roles)
    return call.create(given, parent=request.parent, event=pb.DelegationGiven)


def revoke_delegation(request: pb.RevokeDelegationRequest, call: calls.Call) -> Delegation:
    """Takes it back from now on."""
    delegation = call.load(Delegation, request.name)
    delegation.revoke_time.CopyFrom(resources.stamp(call.now))
    return call.save(delegation, pb.DelegationRevoked)


def list_delegations(request: pb.ListDelegationsRequest, call: calls.Call) -> pb.ListDelegationsResponse:
    return call.page(Delegation, request, pb.ListDelegationsResponse)


def acting(
    store: Store,
    issuers: identity.Issuers,
    caller: identity.Caller,
    *,
    principal: str,
    reference: str,
    now: datetime.datetime,
) -> identity.Caller:
    """The official that a caller stands in for; `reference`: how the caller stands in histories. Counts
    within a second of being given or taken back."""
    if not caller.separate:
        rows = store.recent(Delegation, _counting, {"deputy": caller.subject, "principal": principal})
        for start, end, issuer, roles, place, organisation in rows:
            if issuer == caller.issuer and resources.when(start) <= now < resources.when(end):
                claims = {"iss": issuer, "sub": principal, "region": place, "organisation": organisation,
                          "roles": resources.loaded(roles)}  # fmt: skip
                return dataclasses.replace(issuers.vouch(claims), deputy=reference)
    raise errors.Forbidden(method="anything", why=f"nobody made the caller a deputy of {principal!r}")


def _counting(table: sa.Table) -> Any:
    c = table.c
    return sa.select(c.start_time, c.end_time, c.issuer, c.roles, c.place, c.organisation).where(
        c.deputy == sa.bindparam("deputy", type_=c.deputy.type),
        c.principal == sa.bindparam("principal", type_=c.principal.type),
        c.revoke_time.is_(None),
    )  # fmt: skip


HANDLERS = {
    "GiveDelegation": give_delegation,
    "RevokeDelegation": revoke_delegation,
    "ListDelegations": list_delegations,
}
