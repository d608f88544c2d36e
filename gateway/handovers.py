"""Moving a domain of a region between nodes (移交) and taking it over from one that is lost (接管). The
province's node process carries each on, a step at a time; what was done stands in the record, so that
whatever ends in between, the next process goes on there. The grant and the record's GRANTED are one commit:
before it the giver may be told to go on, after it never."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from gateway import enrolment, services, takeovers
from mesh import calls, errors, resources, runtime
from village.mesh.v1 import directory_pb2, enrolment_pb2
from village.mesh.v1 import handover_pb2 as pb
from village.mesh.v1.enrolment_pb2 import Enrolment, Grant
from village.mesh.v1.handover_pb2 import Handover

RESOURCES = (Handover,)
STRETCH_S = 5.0
"""For how long pages are copied before it is written down how far they are."""
ALIVE_S = 60.0
"""For how long after a sign of life a node is held to be there."""
S = Handover.State
UNDONE = (S.STATE_FREEZING, S.STATE_COPYING, S.STATE_REVERTING)
"""Nobody but the giver may write yet: a takeover may come in between."""
UNDER_WAY = (S.STATE_REQUESTED, S.STATE_FREEZING, S.STATE_COPYING, S.STATE_GRANTED, S.STATE_REVERTING)
log = logging.getLogger(__name__)


class HandoverUnderWay(errors.Refused):
    """The pair is being moved already."""

    en = "{name} is under way"
    zh = "该业务域正在移交"


class HandoverDecided(errors.Refused):
    """It is too late for that, or it was done before."""

    en = "{name} is {state}"
    zh = "该移交已办结或已不能变更"


class SameOfficer(errors.Refused):
    """A takeover needs two persons."""

    en = "{requester} asked for it: somebody else approves"
    zh = "申请人与批准人不得为同一人"


class NotThroughProvince(errors.Refused):
    """A pair moves from the province or to it."""

    en = "a domain moves from the province or to it: hand it to {province} first"
    zh = "业务域须先移交省级节点"


# asked for


def hand_over_domain(request: pb.HandOverDomainRequest, call: calls.Call) -> Handover:
    handover = _begun(request.parent, request.handover, call)
    if handover.giver == handover.receiver:
        raise errors.Invalid("handover.receiver", "is the owner already")
    if call.region not in (handover.giver, handover.receiver):
        raise NotThroughProvince(province=call.region)
    if handover.receiver != call.region:
        enrolled = call.find(Enrolment, f"{request.parent}/enrolments/{handover.receiver}")
        if enrolled is None or enrolled.HasField("revoke_time"):
            raise enrolment.NodeNotEnrolled(node=handover.receiver)
    handover.state = S.STATE_FREEZING
    return call.create(handover, parent=request.parent, event=pb.HandoverRequested)


def take_over_domain(request: pb.TakeOverDomainRequest, call: calls.Call) -> Handover:
    given = request.handover
    given.receiver = call.region
    handover = _begun(request.parent, given, call, forced=True)
    if handover.giver == call.region:
        raise errors.Invalid("handover.about_region", "is the province's already")
    if not handover.reason:
        raise errors.Invalid("handover.reason", "is required for a takeover")
    handover.forced, handover.state = True, S.STATE_REQUESTED
    return call.create(handover, parent=request.parent, event=pb.HandoverRequested)


def _begun(parent: str, handover: Handover, call: calls.Call, *, forced: bool = False) -> Handover:
    """A takeover does not wait for a handover whose giver or receiver is lost."""
    enrolment.office_of(call, handover.about_region)
    for other in _others(call, handover):
        if not forced or other.state not in UNDONE:
            raise HandoverUnderWay(name=other.name)
    process = call.services.node
    if handover.domain not in process.settings.runs:  # it gives or receives
        raise errors.NotFound(name=f"service of {handover.domain}")
    giver = process.directory.view.owner(handover.about_region, handover.domain)
    if not giver:
        raise errors.NotOwnedHere(region=handover.about_region)
    handover.giver, handover.requester = giver, call.reference
    handover.request_time.CopyFrom(resources.stamp(call.now))
    return handover


def _others(call: calls.Call, handover: Handover) -> list[Handover]:
    """What else is under way for the pair."""
    pair = handover.about_region, handover.domain
    return [
        other
        for other in call.store.every(Handover)
        if (other.about_region, other.domain) == pair
        and other.state in UNDER_WAY
        and other.name != handover.name
    ]


def approve_takeover(request: pb.ApproveTakeoverRequest, call: calls.Call) -> Handover:
    """The next epoch begins in this very commit; what the copy lacks is written down."""
    handover = call.load(Handover, request.name)
    if handover.state != S.STATE_REQUESTED:
        raise HandoverDecided(name=handover.name, state=S.Name(handover.state))
    if handover.requester == call.reference:
        raise SameOfficer(requester=handover.requester)
    at = services.copy(call.services.node, handover.domain, handover.about_region)
    handover.copied, handover.last_number = at.number, at.number + at.behind
    handover.cursor = f"{at.epoch}.{at.incarnation}.{at.number}"
    handover.approver, handover.state = call.reference, S.STATE_GRANTED
    handover.freeze_time.CopyFrom(resources.stamp(call.now))
    _grant(call, handover, at.epoch)
    for other in _others(call, handover):
        ended = call.load(Handover, other.name)
        ended.state, ended.trouble = S.STATE_REVERTED, f"{handover.name} took the domain over"
        call.save(ended, pb.HandoverMoved)
    return call.save(handover, pb.HandoverMoved)


def revert_handover(request: pb.RevertHandoverRequest, call: calls.Call) -> Handover:
    handover = call.load(Handover, request.name)
    if handover.state == S.STATE_REQUESTED:
        handover.state = S.STATE_REVERTED
    elif handover.state in (S.STATE_FREEZING, S.STATE_COPYING):
        handover.state = S.STATE_REVERTING
    else:
        raise HandoverDecided(name=handover.name, state=S.Name(handover.state))
    return call.save(handover, pb.HandoverMoved)


def get_handover(request: pb.GetHandoverRequest, call: calls.Call) -> Handover:
    return call.load(Handover, request.name)


def list_handovers(request: pb.ListHandoversRequest, call: calls.Call) -> pb.ListHandoversResponse:
    return call.page(Handover, request, pb.ListHandoversResponse)


HANDLERS = {
    "ListHandovers": list_handovers,
    "HandOverDomain": hand_over_domain,
    "TakeOverDomain": take_over_domain,
    "ApproveTakeover": approve_takeover,
    "RevertHandover": revert_handover,
    "GetHandover": get_handover,
}


def _grant(call: calls.Call, handover: Handover, epoch: int) -> None:
    """Makes the receiver the owner, from the epoch after `epoch` on."""
    region, parent = handover.about_region, f"regions/{resources.region_in(handover.name)}"
    known = call.find(Grant, f"{parent}/grants/{region}-{handover.domain}")
    grant = known if known is not None else Grant(about_region=region, domain=handover.domain)
    grant.node, grant.epoch = handover.receiver, max(epoch, grant.epoch) + 1
    handover.epoch = grant.epoch
    grant.grant_time.CopyFrom(resources.stamp(call.now))
    handover.grant_time.CopyFrom(grant.grant_time)
    if known is not None:
        call.save(grant, enrolment_pb2.GrantMade)
    else:
        call.create(grant, parent=parent, event=enrolment_pb2.GrantMade, wanted=f"{region}-{handover.domain}")


# carried on


class Mover:
    """Carries on what is under way at the province."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._due: dict[str, float] = {}
        """By takeover, when the former owner was last asked, and when it is to be asked again by itself."""

    def __call__(self, process: Any, hosted: runtime.Hosted) -> None:
        if process.directory is None or not process.directory.is_province or hosted.store is None:
            return
        last: dict[tuple[str, str], Handover] = {}
        begun: set[tuple[str, str]] = set()
        for handover in sorted(hosted.store.every(Handover), key=lambda h: h.name):  # as they were asked for
            pair = (handover.about_region, handover.domain)
            if handover.state in UNDER_WAY and handover.state != S.STATE_REQUESTED and pair not in begun:
                begun.add(pair)  # of two that were asked for at once the other waits
                _Move(process, hosted, handover).go_on()
            if handover.HasField("grant_time"):
                both = (last.get(pair, handover), handover)
                last[pair] = max(both, key=lambda h: h.grant_time.ToNanoseconds())
        for handover in last.values():
            done = handover.state == S.STATE_DONE and not handover.HasField("reduce_time")
            if handover.forced and done and handover.epoch:
                self._wind_up(process, hosted, handover)

    def _wind_up(self, process: Any, hosted: runtime.Hosted, handover: Handover) -> None:
        """Asks the former owner when it gives a sign of life, as a node does twice a minute, or says that its
        log has grown. One that is lost is not asked."""
        name, now = handover.name, time.monotonic()
        heard = process.lines.heard.get(handover.giver, 0.0)
        told = heard > self._asked.get(name, 0.0)
        if not told and now < self._due.get(name, math.inf):
            return
        again = _Move(process, hosted, handover).wind_up(told=told)
        if told and again != 0.0:  # else it goes on at once, as with what it was told
            self._asked[name] = now
        if again is None and now - heard < ALIVE_S:
            again = takeovers.SOON_S  # it is there, and perhaps still coming up
        self._due[name] = math.inf if again is None else now + again


class _Move:
    """One handover, as it is carried on."""

    def __init__(self, process: Any, hosted: runtime.Hosted, handover: Handover) -> None:
        self._process, self._hosted, self._it = process, hosted, handover
        self._me, self._region = process.directory.region, handover.about_region
        self._parent = f"regions/{self._region}"
        self._epoch = 0

    def go_on(self) -> None:
        """The next step; what keeps it from being taken is written down."""
        steps = {
            S.STATE_FREEZING: self._freeze, S.STATE_COPYING: self._copy, S.STATE_GRANTED: self._settle,
            S.STATE_REVERTING: self._revert,
        }  # fmt: skip
        self._take(steps[self._it.state])

    def wind_up(self, *, told: bool) -> float | None:
        """What is left to do with a former owner after a takeover; in how many seconds to go on with it, None
        to wait for a sign of life."""
        former = takeovers.Former(self._me, self._it, self._ask)
        return self._take(lambda: former.wind_up(told=told))

    def _take(self, step: Callable[[], Any]) -> Any:
        before = Handover()
        before.CopyFrom(self._it)
        answer = None
        try:
            self._it.trouble = ""
            answer = step()
        except errors.Refusal as refusal:
            self._it.CopyFrom(before)
            self._it.trouble = services.why(refusal)
        if self._it != before:
            self._save()
        return answer

    def _save(self) -> None:
        """Writes down how it stands, unless somebody decided otherwise meanwhile."""
        assert self._hosted.store is not None
        call = calls.own(self._hosted.store, "move_domain", resources.utcnow(), self._me)
        kept = call.find(Handover, self._it.name)
        if kept is None or kept.etag != self._it.etag:
            return
        if self._it.state == S.STATE_GRANTED and kept.state == S.STATE_COPYING:
            _grant(call, self._it, self._epoch)
        kept.CopyFrom(self._it)
        call.save(kept, pb.HandoverMoved)
        commit = call.changes.commit()
        assert commit is not None
        self._hosted.store.commit(commit)
        self._hosted.committed()

    def _owner(self) -> str:
        return str(self._process.directory.view.owner(self._region, self._it.domain))

    def _freeze(self) -> None:
        if self._owner() != self._it.giver:  # another handover was asked for at the same time, and is done
            self._it.state = S.STATE_REVERTED
            return
        answer = self._frozen()
        self._it.last_number, self._it.state, self._it.cursor = answer.last_number, S.STATE_COPYING, ""
        self._it.freeze_time.CopyFrom(resources.stamp(resources.utcnow()))

    def _frozen(self, *, thaw: bool = False) -> pb.FreezeRegionResponse:
        receiver = "" if thaw else self._it.receiver
        request = pb.FreezeRegionRequest(parent=self._parent, thaw=thaw, receiver=receiver)
        return pb.FreezeRegionResponse.FromString(self._ask(self._it.giver, "FreezeRegion", request))

    def _copy(self) -> None:
        """Pages for a while; when all are there, digests, and the grant."""
        answer = self._frozen()  # asked again: it must be so until the grant
        self._it.last_number, self._epoch = answer.last_number, answer.epoch
        ended = (answer.epoch, answer.incarnation, answer.last_number)
        # a part of the log that comes later would overwrite what was copied
        if self._it.giver == self._me:
            at = (*ended[:2], answer.confirmed)
        else:
            copy = services.copy(self._process, self._it.domain, self._region)
            at = (copy.epoch, copy.incarnation, copy.number)
        if at < ended:
            self._it.trouble = f"event {max(at[-1], 0)} of {ended[-1]} of the giver's log has come"
            return
        until = time.monotonic() + STRETCH_S
        while time.monotonic() < until:
            page = self._page()
            self._it.rows += page.rows
            self._it.cursor = page.next_cursor
            if not page.next_cursor:
                break
        else:
            return
        theirs, ours = self._sum(self._it.giver), self._sum(self._it.receiver)
        if theirs != ours:
            self._it.cursor, self._it.rows = "", 0
            self._it.trouble = f"digests differ: {theirs.rows} rows and {ours.rows}; it is copied again"
            return
        self._it.state = S.STATE_GRANTED

    def _page(self) -> pb.ImportRegionResponse:
        request = pb.ImportRegionRequest(parent=self._parent, cursor=self._it.cursor, giver=self._it.giver)
        try:
            raw = self._ask(self._it.receiver, "ImportRegion", request)
        except errors.Passed as refusal:  # the receiver was started anew in the middle of a file
            if refusal.code != errors.ABORTED:
                raise
            return pb.ImportRegionResponse()
        return pb.ImportRegionResponse.FromString(raw)

    def _sum(self, node: str) -> pb.SumRegionResponse:
        """All that a node has, summed up a stretch at a time."""
        found = self._stretch(node, pb.SumRegionResponse())
        rows = found.rows
        while found.next_cursor:
            found = self._stretch(node, found)
            rows += found.rows
        return pb.SumRegionResponse(rows=rows, digest=found.digest)

    def _stretch(self, node: str, before: pb.SumRegionResponse) -> pb.SumRegionResponse:
        request = pb.SumRegionRequest(parent=self._parent, cursor=before.next_cursor, digest=before.digest)
        return pb.SumRegionResponse.FromString(self._ask(node, "SumRegion", request))

    def _settle(self) -> None:
        """When the receiver writes, the giver keeps no more than may leave it."""
        if not self._writes(self._it.receiver):
            return
        if not self._it.forced:
            self._ask(self._it.giver, "ReduceRegion", pb.ReduceRegionRequest(parent=self._parent))
        self._it.state = S.STATE_DONE

    def _writes(self, node: str) -> bool:
        """Whether the receiver has taken the pair up; of another node, whether it has heard that it is to."""
        if node != self._me:
            return self._knows(node)
        request = pb.AssumeRegionRequest(parent=self._parent, epoch=self._it.epoch, forced=self._it.forced)
        return pb.AssumeRegionResponse.FromString(self._ask(node, "AssumeRegion", request)).owned

    def _knows(self, node: str) -> bool:
        """Whether a node has heard that it is the owner."""
        view = self._process.directory.view
        if self._owner() != node:
            return False
        path = "/village.mesh.v1.DirectoryService/GetNode"
        raw, _ = self._process.lines.call(node, path, b"", {}, services.CALL_S)
        return bool(directory_pb2.Node.FromString(raw).directory_version >= view.version)

    def _revert(self) -> None:
        if self._owner() == self._it.giver:
            self._frozen(thaw=True)
        if self._owner() != self._it.receiver:  # a copy again, and nothing more
            self._ask(self._it.receiver, "ReduceRegion", pb.ReduceRegionRequest(parent=self._parent))
            if self._it.receiver == self._me:
                request = directory_pb2.ReconcileCopyRequest(
                    parent=f"regions/{self._me}", about_region=self._region, domain=self._it.domain
                )
                self._ask(self._me, "ReconcileCopy", request, services.LONG_S)
        self._it.state = S.STATE_REVERTED

    def _ask(self, node: str, method: str, request: Any, timeout: float = services.CALL_S) -> bytes:
        return services.ask(self._process, (node, self._it.domain), method, request, timeout)
