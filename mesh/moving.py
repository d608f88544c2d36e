"""What nodes ask of each other, and the province of its own service, when a region moves (移交): freeze,
hand out and take in a page, sum up, reduce; and when it was taken over (接管). Separate from `exports`, which
knows what a page holds, and from the province's node process, which carries it on."""

import json
import zlib
from typing import Any

from mesh import (
    calls,
    conditions,
    copies,
    errors,
    exports,
    outbox,
    reactions,
    reconciling,
    regions,
    resources,
)
from mesh.store import Store
from village.mesh.v1 import handover_pb2 as pb
from village.mesh.v1 import link_pb2
from village.mesh.v1.dead_letter_pb2 import DeadLetter

ANSWER_S, STRETCH_S = 15.0, 5.0
REACTION = "takeover"
"""What dead letters name as the reaction that set them aside."""


class NotFrozen(errors.Refused):
    """A region is exported only while nobody writes for it."""

    en = "region {region} is not frozen here"
    zh = "该地区尚未冻结，不能移出"


def _province_only(call: calls.Call, parent: str) -> str:
    if call.caller.region != call.services.chain.directory.view.province:
        raise errors.Forbidden(method=call.method.name, why="only the province asks for that")
    return resources.region_in(parent)


def freeze_region(request: pb.FreezeRegionRequest, call: calls.Call) -> pb.FreezeRegionResponse:
    region, directory = _province_only(call, request.parent), call.services.chain.directory
    store = call.store
    if request.thaw and directory.view.owner(region, store.domain) != directory.region:
        raise errors.NotOwnedHere(region=region)  # it was said before somebody else became the owner
    if request.unused:
        released = pb.FreezeRegionResponse(epoch=store.grants.freeze(region))
        released.in_use = bool(released.epoch) and store.used(region)
        if released.in_use:
            store.grants.freeze(region, frozen=False)
        return released
    answer = freeze(store, region, thaw=request.thaw)
    store.receivers[region] = request.receiver
    at = store.confirmed.get((region, request.receiver), (0, 0, 0))
    answer.confirmed = at[-1] if at[:2] == (answer.epoch, answer.incarnation) else -1
    return answer


def freeze(store: Store, region: str, *, thaw: bool = False) -> pb.FreezeRegionResponse:
    """Ends this node's right to write for a region, or lets it go on; where its log ends."""
    if store.grants.row(region) is None:
        raise errors.NotOwnedHere(region=region)
    outbox.begin(store, region)
    store.grants.freeze(region, frozen=not thaw)
    row = store.grants.row(region)
    last = outbox.last_number(store, region, row.epoch, row.incarnation)
    return pb.FreezeRegionResponse(epoch=row.epoch, incarnation=row.incarnation, last_number=last)


def export_region(request: pb.ExportRegionRequest, call: calls.Call) -> pb.ExportRegionResponse:
    """Only to the province, or to whom the province says the region goes."""
    region, directory, to = (
        resources.region_in(request.parent),
        call.services.chain.directory,
        call.caller.region,
    )
    if to not in (directory.view.province, call.store.receivers.get(region)):
        raise errors.Forbidden(method=call.method.name, why=f"node {to} is not to receive {region}")
    if call.store.grants.owned(region):
        raise NotFrozen(region=region)
    kind, rows, cursor = exports.page(call.store, region, request.cursor)
    texts = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    raw = zlib.compress(pb.ExportedRows(kind=kind, rows=texts).SerializeToString(), 1)
    return pb.ExportRegionResponse(sealed=directory.seal(to, raw), next_cursor=cursor)


def import_region(request: pb.ImportRegionRequest, call: calls.Call) -> pb.ImportRegionResponse:
    """Copies one page from the giver, in the place of what this node has there."""
    region, store, routes = _province_only(call, request.parent), call.store, call.services.chain.routes
    giver = request.giver or call.caller.region
    if store.grants.owned(region):
        raise NotFrozen(region=region)
    if routes is None:
        raise errors.NotFound(name=f"line to {giver}")
    asked = pb.ExportRegionRequest(parent=request.parent, cursor=request.cursor)
    path = f"/village.{store.domain}.v1.LogService/ExportRegion"
    raw, _ = routes.lines.call(giver, path, asked.SerializeToString(), {}, ANSWER_S)
    answer = pb.ExportRegionResponse.FromString(raw)
    found = pb.ExportedRows.FromString(zlib.decompress(routes.directory.unseal(answer.sealed)))
    rows = [json.loads(row) for row in found.rows]
    exports.put(store, region, request.cursor, (found.kind, rows, answer.next_cursor))
    return pb.ImportRegionResponse(next_cursor=answer.next_cursor, rows=len(rows))


def sum_region(request: pb.SumRegionRequest, call: calls.Call) -> pb.SumRegionResponse:
    """As far as one comes in a few seconds."""
    region = _province_only(call, request.parent)
    rows, digest, cursor = exports.stretch(call.store, region, request.cursor, request.digest, STRETCH_S)
    return pb.SumRegionResponse(rows=rows, digest=digest, next_cursor=cursor)


def reduce_region(request: pb.ReduceRegionRequest, call: calls.Call) -> pb.ReduceRegionResponse:
    region, store = _province_only(call, request.parent), call.store
    if store.grants.owned(region):
        raise NotFrozen(region=region)
    row = store.grants.row(region) if request.epoch else None
    if row is not None:
        last = outbox.last_number(store, region, row.epoch, row.incarnation)
        known = (request.epoch, request.incarnation, request.number)
        if last and (row.epoch, row.incarnation, last) > known:
            raise errors.Conflict(name=f"the log of {region}")
    store.receivers.pop(region, None)
    exports.reduce(store, region)
    if request.epoch:  # what its successor never saw is here still
        reconciling.with_owner(call, region, mend=True)
    return pb.ReduceRegionResponse()


def assume_region(request: pb.AssumeRegionRequest, call: calls.Call) -> pb.AssumeRegionResponse:
    conditions.only_itself(call)
    region, store = resources.region_in(request.parent), call.store
    owned = store.grants.owned(region) and store.grants.of(region).epoch >= request.epoch
    if owned and request.forced:
        store.wind_up(region)
        copies.Copies(store).follow_from(region, request.epoch)
    return pb.AssumeRegionResponse(owned=owned)


def set_events_aside(request: pb.SetEventsAsideRequest, call: calls.Call) -> pb.SetEventsAsideResponse:
    """Each as a dead letter that nothing replays: it is read, decided on, and dropped."""
    conditions.only_itself(call)
    late = sum(_set_aside(call.store, row, call.region) for row in copies.unpacked(request.rows))
    begins = f"village.{regions.tokens(request.about_region)}.{call.store.domain}."
    waiting = sum(
        letter.reaction == REACTION and not letter.settled and letter.subject.startswith(begins)
        for letter in call.store.every(DeadLetter)
    )
    return pb.SetEventsAsideResponse(late=late, waiting=waiting)


def _set_aside(store: Store, row: link_pb2.LogRow, me: str) -> bool:
    """Whether it is new."""
    call = calls.own(store, "set_aside", resources.utcnow(), me)
    event = reactions.Event(row.subject, {"ce-type": row.type, "ce-id": row.event_id}, row.payload)
    reactions.set_aside(call, REACTION, event, "LATE")
    commit = call.changes.commit()
    if commit is not None:
        store.commit(commit)
    return commit is not None


HANDLERS: dict[str, Any] = {
    "FreezeRegion": freeze_region,
    "ExportRegion": export_region,
    "ImportRegion": import_region,
    "SumRegion": sum_region,
    "ReduceRegion": reduce_region,
    "AssumeRegion": assume_region,
    "SetEventsAside": set_events_aside,
}
