"""What nodes ask of each other when a region moves (移交): freeze, hand out and take in a page, sum up,
reduce. Separate from `exports`, which knows what a page holds, and from the province's process, which carries
it on."""

import json
import zlib
from typing import Any

from mesh import calls, errors, exports, outbox, resources
from mesh.store import Store
from village.mesh.v1 import handover_pb2 as pb

ANSWER_S, STRETCH_S = 15.0, 5.0


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
    if request.thaw and directory.view.owner(region, call.store.domain) != directory.region:
        raise errors.NotOwnedHere(region=region)  # it was said before somebody else became the owner
    return freeze(call.store, region, thaw=request.thaw)


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
    receives = to == directory.view.province or _receives(call, region, to)
    if not receives:
        raise errors.Forbidden(method=call.method.name, why=f"node {to} is not to receive {region}")
    if call.store.grants.owned(region):
        raise NotFrozen(region=region)
    kind, rows, cursor = exports.page(call.store, region, request.cursor)
    texts = [json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows]
    raw = zlib.compress(pb.ExportedRows(kind=kind, rows=texts).SerializeToString(), 1)
    return pb.ExportRegionResponse(sealed=directory.seal(to, raw), next_cursor=cursor)


def _receives(call: calls.Call, region: str, to: str) -> bool:
    node = call.services.node
    return node is not None and node.receiver(region, call.store.domain) == to


def import_region(request: pb.ImportRegionRequest, call: calls.Call) -> pb.ImportRegionResponse:
    region = _province_only(call, request.parent)
    if call.store.grants.owned(region):
        raise NotFrozen(region=region)
    node, province = call.services.node, call.services.chain.directory.view.province
    if node is None or node.lines is None:
        raise errors.NotFound(name=f"line to {province}")
    return import_page(call.store, node.lines, province, region, request.cursor)


def import_page(store: Store, lines: Any, giver: str, region: str, cursor: str) -> pb.ImportRegionResponse:
    """Copies one page from the giver, in the place of what this node has there."""
    if store.grants.owned(region):
        raise NotFrozen(region=region)
    request = pb.ExportRegionRequest(parent=f"regions/{region}", cursor=cursor)
    path = f"/village.{store.domain}.v1.LogService/ExportRegion"
    raw, _ = lines.call(giver, path, request.SerializeToString(), {}, ANSWER_S)
    answer = pb.ExportRegionResponse.FromString(raw)
    found = pb.ExportedRows.FromString(zlib.decompress(lines.directory.unseal(answer.sealed)))
    rows = [json.loads(row) for row in found.rows]
    exports.put(store, region, cursor, (found.kind, rows, answer.next_cursor))
    return pb.ImportRegionResponse(next_cursor=answer.next_cursor, rows=len(rows))


def sum_region(request: pb.SumRegionRequest, call: calls.Call) -> pb.SumRegionResponse:
    region = _province_only(call, request.parent)
    return sums(call.store, region, request.cursor, request.digest)


def sums(store: Store, region: str, cursor: str, digest: str) -> pb.SumRegionResponse:
    """As far as one comes in a few seconds."""
    rows, digest, following = exports.stretch(store, region, cursor, digest, STRETCH_S)
    return pb.SumRegionResponse(rows=rows, digest=digest, next_cursor=following)


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
    exports.reduce(store, region)
    if request.epoch:  # what its successor never saw is here still
        call.services.node.reconcile(region, store.domain, mend=True)
    return pb.ReduceRegionResponse()


HANDLERS: dict[str, Any] = {
    "FreezeRegion": freeze_region,
    "ExportRegion": export_region,
    "ImportRegion": import_region,
    "SumRegion": sum_region,
    "ReduceRegion": reduce_region,
}
