"""How nodes join the mesh and what they are granted (入网与授权). The province's node process alone does
it; the bundle that says so is signed in `gateway.bundles`."""

import datetime
import hashlib
import json
import secrets
import time
from typing import Any

from gateway import authority, bundles, services, tables
from mesh import calls, errors, regions, resources
from village.mesh.v1 import enrolment_pb2 as pb
from village.mesh.v1 import handover_pb2
from village.mesh.v1.enrolment_pb2 import Enrolment, Grant, Invitation

MOST_BYTES_OF_A_NAME = 300
INVITED_FOR = datetime.timedelta(days=7)
RESOURCES = (Invitation, Enrolment, Grant)


class InvitationNotValid(errors.Refused):
    """The code is wrong, used, expired, or another region's. Which of them is not said to a stranger."""

    code = errors.PERMISSION_DENIED
    en = "the code is wrong, used, expired, or another region's"
    zh = "入网邀请码无效、已使用、已过期或不属于该地区"


class NotTheProvince(errors.Refused):
    """Only the node of a province does this, for places inside it."""

    en = "this node is not the province of {region}"
    zh = "本节点不是该地区的省级节点"


class NodeNotEnrolled(errors.Refused):
    """The node has not joined, or was shut out."""

    en = "the node of {node} does not belong to the mesh"
    zh = "该节点尚未入网或已被撤销"


class DomainInUse(errors.Refused):
    """The present owner has records of the pair: a handover must move them."""

    en = "{node} holds records of {domain} in {region}: hand the domain over"
    zh = "现负责节点已有该业务域数据，须办理移交"


def invite_node(request: pb.InviteNodeRequest, call: calls.Call) -> pb.InviteNodeResponse:
    """Keeps the code's digest only."""
    given = request.invitation
    office = _office(call, request.parent, given.about_region, "invitation.about_region")
    if given.about_region == call.region:
        raise errors.Invalid("invitation.about_region", "is the province's own, whose node is there")
    code = secrets.token_hex(16)
    given.code_digest = hashlib.sha256(code.encode()).hexdigest()
    given.expire_time.CopyFrom(resources.stamp(call.now + INVITED_FOR))
    made = call.create(given, parent=request.parent, event=pb.InvitationMade)
    return pb.InviteNodeResponse(invitation=made, code=f"{code}.{office.authority.fingerprint()}")


def enrol_node(request: pb.EnrolNodeRequest, call: calls.Call) -> pb.EnrolNodeResponse:
    """Uses the invitation up, records the node, and grants what stands in the invitation: one commit."""
    office = _office(call, request.parent, request.region, "region")
    key = authority.requested_key(request.signing_request)
    invitation = _invitation(call, request.code.partition(".")[0], request.region)
    invitation.use_time.CopyFrom(resources.stamp(call.now))
    call.save(invitation, pb.InvitationUsed)
    known = call.find(Enrolment, f"{request.parent}/enrolments/{request.region}")
    anew = known is not None and known.public_key != key
    enrolment = _enrolment(call, request, known, key)
    granted = [g for d in invitation.domains if (g := _first_grant(call, request, d))]
    granted += _begun_anew(call, request.region) if anew else []
    bundle = office.bundle(call.store, call.now, more=[enrolment, *granted])
    return pb.EnrolNodeResponse(
        certificate=office.authority.certify(key, request.region, call.now),
        bundle=bundle,
        broker_user=f"node-{request.region}",
        broker_password=office.authority.password(request.region, call.now),
    )


def _invitation(call: calls.Call, code: str, region: str) -> Invitation:
    digest = hashlib.sha256(code.encode()).hexdigest()
    for (name,) in call.recent(Invitation, tables.by_code, code_digest=digest):
        found = call.load(Invitation, name)
        fresh = not found.HasField("use_time") and call.now < resources.moment(found.expire_time)
        if fresh and found.about_region == region:
            return found
    raise InvitationNotValid


def _enrolment(
    call: calls.Call, request: pb.EnrolNodeRequest, known: Enrolment | None, key: str
) -> Enrolment:
    """The record of the node, made or made anew."""
    enrolment = known if known is not None else Enrolment()
    enrolment.about_region, enrolment.public_key = request.region, key
    enrolment.issuers = _vouching(call, request.issuers, request.region)
    enrolment.software = request.software
    enrolment.enrol_time.CopyFrom(resources.stamp(call.now))
    enrolment.ClearField("revoke_time")
    if known is not None:
        return call.save(enrolment, pb.EnrolmentMade)
    return call.create(enrolment, parent=request.parent, event=pb.EnrolmentMade, wanted=request.region)


def _begun_anew(call: calls.Call, region: str) -> list[Grant]:
    """The grants of a node that comes with another key, as one does that has lost its disk: its logs begin
    again at 1, and must not be taken for the ones that are known."""
    found = [call.load(Grant, grant.name) for grant in call.store.every(Grant) if grant.node == region]
    for grant in found:
        grant.epoch += 1
        call.save(grant, pb.GrantMade)
    return found


def _vouching(call: calls.Call, text: str, region: str) -> str:
    """Those that a node vouches for, cut down to its own region and level. Invalid when it names one that is
    another node's, whose tokens would be held against its keys then."""
    level = bundles.level_name(region)
    try:
        entries = json.loads(text or "[]")
        found = [
            {"issuer": _issuer(e["issuer"]), "jwks": json.dumps(e["jwks"]), "region": region,
             "highest_level": level}
            for e in entries
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        raise errors.Invalid("issuers", "is not a list of issuers with their keys") from fault
    taken = {e["issuer"] for e in bundles.vouching(call.services.node.settings.issuers)}
    for other in call.store.every(Enrolment):
        taken |= {e["issuer"] for e in json.loads(other.issuers) if other.about_region != region}
    if any(entry["issuer"] in taken for entry in found):
        raise errors.Invalid("issuers", "names an issuer that another node vouches for")
    return json.dumps(found)


def _issuer(value: Any) -> str:
    """The name of an issuer. ValueError for what no message can carry."""
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MOST_BYTES_OF_A_NAME:
        raise ValueError("an issuer's name is text, and not long")
    return value


def _first_grant(call: calls.Call, request: pb.EnrolNodeRequest, domain: str) -> Grant | None:
    """The grant that an invitation promised; None when the node has it already."""
    name = f"{request.parent}/grants/{request.region}-{domain}"
    if call.find(Grant, name) is not None:
        return None
    return _granted(
        call, request.parent, Grant(about_region=request.region, domain=domain, node=request.region)
    )


def grant_domain(request: pb.GrantDomainRequest, call: calls.Call) -> Grant:
    """Makes a node the owner. The province's own right to write ends first."""
    given = request.grant
    _office(call, request.parent, given.about_region, "grant.about_region")
    if given.node != call.region:
        enrolled = call.find(Enrolment, f"{request.parent}/enrolments/{given.node}")
        if enrolled is None or enrolled.HasField("revoke_time"):
            raise NodeNotEnrolled(node=given.node)
        call.rely_on(enrolled)
    return _granted(call, request.parent, given)


def _granted(call: calls.Call, parent: str, given: Grant) -> Grant:
    region, domain = given.about_region, given.domain
    known = call.find(Grant, f"{parent}/grants/{region}-{domain}")
    if known is not None:
        if known.node == given.node:
            return known
        raise DomainInUse(node=known.node, domain=domain, region=region)
    given.epoch = _released(call, region, domain) + 1
    given.grant_time.CopyFrom(resources.stamp(call.now))
    return call.create(given, parent=parent, event=pb.GrantMade, wanted=f"{region}-{domain}")


def _released(call: calls.Call, region: str, domain: str) -> int:
    """Ends the province's own right to write for a pair, of which it has no records; its epoch, 0 when it had
    none."""
    process = call.services.node
    if domain not in process.settings.runs:
        return 0
    request = handover_pb2.FreezeRegionRequest(parent=f"regions/{region}", unused=True)
    raw = services.ask(process, (call.region, domain), "FreezeRegion", request)
    answer = handover_pb2.FreezeRegionResponse.FromString(raw)
    if answer.in_use:
        raise DomainInUse(node=call.region, domain=domain, region=region)
    return answer.epoch


def renew_bundle(request: pb.RenewBundleRequest, call: calls.Call) -> pb.RenewBundleResponse:
    """The latest bundle, and a certificate for the key that the node joined with."""
    office = _office(call, request.parent, call.caller.region, "parent")
    enrolment = call.find(Enrolment, f"{request.parent}/enrolments/{call.caller.region}")
    if enrolment is None or enrolment.HasField("revoke_time"):
        raise NodeNotEnrolled(node=call.caller.region)
    vouching = enrolment.issuers
    if request.issuers:
        vouching = _vouching(call, request.issuers, call.caller.region)
    if (vouching, request.software) != (enrolment.issuers, enrolment.software):
        enrolment.issuers, enrolment.software = vouching, request.software
        call.save(enrolment, pb.EnrolmentMade)
    if (lines := call.services.node.lines) is not None:
        lines.heard[call.caller.region] = time.monotonic()
    view = call.services.node.directory.view
    if view.version == request.version and call.now < view.issued + bundles.RENEWED:
        return pb.RenewBundleResponse(time=resources.stamp(call.now))
    return pb.RenewBundleResponse(
        time=resources.stamp(call.now),
        certificate=office.authority.certify(enrolment.public_key, call.caller.region, call.now),
        bundle=office.published(),
    )


def revoke_node(request: pb.RevokeNodeRequest, call: calls.Call) -> Enrolment:
    """Its grants stay: whoever is to serve its people takes them over."""
    enrolment = call.load(Enrolment, request.name)
    enrolment.revoke_time.CopyFrom(resources.stamp(call.now))
    return call.save(enrolment, pb.EnrolmentRevoked)


def list_enrolments(request: pb.ListEnrolmentsRequest, call: calls.Call) -> pb.ListEnrolmentsResponse:
    return call.page(Enrolment, request, pb.ListEnrolmentsResponse)


def list_grants(request: pb.ListGrantsRequest, call: calls.Call) -> pb.ListGrantsResponse:
    return call.page(Grant, request, pb.ListGrantsResponse)


def office_of(call: calls.Call, region: str) -> bundles.Office:
    """The authority of this node, if it is a province's."""
    process = call.services.node
    if process.directory is None or not process.settings.authority_key:
        raise NotTheProvince(region=region)
    return bundles.of(process)


def _office(call: calls.Call, parent: str, region: str, field: str) -> Any:
    """The authority, if this is the province's node and `region` lies inside it."""
    office = office_of(call, region)
    if resources.region_in(parent) != office.region:
        raise NotTheProvince(region=region)
    if not regions.valid(region) or not regions.contains(office.region, region):
        raise errors.Invalid(field, f"lies outside the province {office.region}")
    return office


HANDLERS = {
    "InviteNode": invite_node,
    "EnrolNode": enrol_node,
    "RenewBundle": renew_bundle,
    "RevokeNode": revoke_node,
    "GrantDomain": grant_domain,
    "ListEnrolments": list_enrolments,
    "ListGrants": list_grants,
}
