"""Opening what is under seal in a record (启封, V-12): one asks and states why, a second approves, the first
opens while the approval counts. Separate from `privacy`, which masks; this is the only way past it."""

import datetime
from typing import Any

from mesh import calls, contract, errors, privacy, resources
from village.mesh.v1 import unsealing_pb2 as pb
from village.mesh.v1.unsealing_pb2 import Unsealing

_S = Unsealing.State


class UnsealingDecided(errors.Refused):
    """It was approved or refused before."""

    en = "{name} was decided on before"
    zh = "该启封申请已审批"


class UnsealingNotApproved(errors.Refused):
    """Nobody approved it yet, or it was refused."""

    en = "{name} is not approved"
    zh = "该启封申请未获批准"


class UnsealingOver(errors.Refused):
    """The time that was given for opening has passed."""

    en = "the approval of {name} ended at {until}"
    zh = "启封批准已过期"


def request_unsealing(request: pb.RequestUnsealingRequest, call: calls.Call) -> Unsealing:
    unsealing = request.unsealing
    record = _record(call, request.parent, unsealing.record)
    if record is None:
        raise errors.Invalid("unsealing.record", "is not a record of this region with anything under seal")
    unsealing.state, unsealing.requester = _S.STATE_REQUESTED, call.reference
    unsealing.requester_deputy = call.caller.deputy
    unsealing.request_time.CopyFrom(resources.stamp(call.now))
    return call.create(unsealing, parent=request.parent, event=pb.UnsealingRequested)


def approve_unsealing(request: pb.ApproveUnsealingRequest, call: calls.Call) -> Unsealing:
    unsealing = _undecided(request.name, call)
    unsealing.state, unsealing.approver = _S.STATE_APPROVED, call.reference
    until = call.now + datetime.timedelta(hours=request.valid_hours)
    unsealing.open_until_time.CopyFrom(resources.stamp(until))
    return call.save(unsealing, pb.UnsealingApproved)


def refuse_unsealing(request: pb.RefuseUnsealingRequest, call: calls.Call) -> Unsealing:
    unsealing = _undecided(request.name, call)
    unsealing.state, unsealing.approver = _S.STATE_REFUSED, call.reference
    return call.save(unsealing, pb.UnsealingRefused)


def open_unsealing(request: pb.OpenUnsealingRequest, call: calls.Call) -> pb.OpenUnsealingResponse:
    """What is under seal, in the clear; the audit trail says so of the record before anybody sees it."""
    unsealing = call.load(Unsealing, request.name)
    if unsealing.state not in (_S.STATE_APPROVED, _S.STATE_OPENED):
        raise UnsealingNotApproved(name=unsealing.name)
    until = resources.moment(unsealing.open_until_time)
    if call.now >= until:
        raise UnsealingOver(name=unsealing.name, until=until.isoformat())
    record = _record(call, unsealing.name, unsealing.record)
    if record is None:
        raise errors.NotFound(name=unsealing.record)
    call.disclose(record)
    unsealing.state = _S.STATE_OPENED
    call.save(unsealing, pb.UnsealingOpened)
    answer = pb.OpenUnsealingResponse(record=unsealing.record)
    for path, text in privacy.sealed_texts(record, resources.shape_of(record)).items():
        answer.values.add(path=path, text=text)
    return answer


def list_unsealings(request: pb.ListUnsealingsRequest, call: calls.Call) -> pb.ListUnsealingsResponse:
    return call.page(Unsealing, request, pb.ListUnsealingsResponse)


def _undecided(name: str, call: calls.Call) -> Unsealing:
    unsealing = call.load(Unsealing, name)
    if unsealing.state != _S.STATE_REQUESTED:
        raise UnsealingDecided(name=name)
    return unsealing


def _record(call: calls.Call, near: str, name: str) -> Any:
    """The record of that name in the region of `near`, if it is of a kind that has something under seal."""
    if resources.region_in(name) != resources.region_in(near):
        return None
    for codec in call.store.codecs.values():
        resource: contract.Resource = codec.resource
        if resource.pattern.match(name) and any(f.sealed for f in resource.shape.fields):
            return call.find(resource.cls, name)
    return None


HANDLERS = {
    "RequestUnsealing": request_unsealing,
    "ApproveUnsealing": approve_unsealing,
    "RefuseUnsealing": refuse_unsealing,
    "OpenUnsealing": open_unsealing,
    "ListUnsealings": list_unsealings,
}
