"""All that a node has of a region in one domain, page by page, for the node that is to own it next (移交):
records as they are, histories, files, answers kept for repetitions, the trail, and the key of its keyed
digests. Separate from `replication`, which hands out only what may leave."""

import base64
import functools
import hashlib
import json
import tempfile
import zlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from mesh import attachments, audit, calls, errors, outbox, privacy, replication, resources, statements
from mesh.store import Store
from village.mesh.v1 import handover_pb2 as pb

PAGE, PART = 200, 256 * 1024
INDEX, FILES, REQUESTS, TRAIL = "index", "files", "requests", "trail"
ANSWER_S = 15.0
Line = tuple[str, dict[str, Any]]
"""A row's key, and the row."""


class NotFrozen(errors.Refused):
    """A region is exported only while nobody writes for it."""

    en = "region {region} is not frozen here"
    zh = "该地区尚未冻结，不能移出"


def kinds(store: Store) -> list[str]:
    """What an export holds, in the order in which it can be written again."""
    return [INDEX, FILES, *sorted(store.codecs), REQUESTS, TRAIL]


def page(store: Store, region: str, cursor: str) -> tuple[str, list[dict[str, Any]], str]:
    """(kind, rows, cursor of the next page; empty when this was the last)."""
    kind, _, after = cursor.partition("|")
    order = kinds(store)
    kind = kind or order[0]
    if kind not in order:
        raise errors.Invalid("cursor", "is not one that an export gave")
    lines = _lines(store, region, kind, after)
    if lines and kind != INDEX:
        return kind, [row for _, row in lines], f"{kind}|{lines[-1][0]}"
    following = order[order.index(kind) + 1 :]
    return kind, [row for _, row in lines], f"{following[0]}|" if following else ""


def total(store: Store, region: str) -> tuple[int, str]:
    """(rows, digest) of the export, the contents of files by their own digests. Without the trail: that of an
    earlier time may be longer here, and proves itself."""
    whole, count = hashlib.sha256(), 0
    for kind in kinds(store)[:-1]:
        after = ""
        while lines := _lines(store, region, kind, after, contents=False):
            for _, row in lines:
                whole.update(json.dumps([kind, row], sort_keys=True, ensure_ascii=False).encode())
            count, after = count + len(lines), lines[-1][0]
            if kind == INDEX:
                break
    return count, whole.hexdigest()


def _lines(store: Store, region: str, kind: str, after: str, *, contents: bool = True) -> list[Line]:
    if kind == INDEX:
        return [("", {"key": store.rings.data.index_key(region, store.domain)})]
    if kind == FILES:
        return _parts(store, region, after) if contents else _files(store, region, after)
    if kind == REQUESTS:
        return _requests(store, region, after)
    if kind == TRAIL:
        return _trail(store, region, after)
    return _records(store, region, kind, after)


def _records(store: Store, region: str, kind: str, after: str) -> list[Line]:
    codec = store.codecs[kind]
    t = codec.table
    asked = (
        sa.select(*codec.columns).where(t.c.region == region, t.c.name > after).order_by(t.c.name).limit(PAGE)
    )
    found: list[Line] = []
    for row in (codec.decode(r) for r in store.database.select(asked)):
        name = row.message.name
        steps = [_text(step) for step in store.history(name)]
        line = {
            "message": _text(row.message), "version": row.version, "owner": row.owner, "digest": row.digest,
            "alarm": resources.rfc3339(row.alarm) if row.alarm else "", "steps": steps,
            "files": sorted(attachments.referred(row.message, codec.resource.shape)),
        }  # fmt: skip
        found.append((name, line))
    return found


def _text(message: Any) -> str:
    return base64.b64encode(message.SerializeToString(deterministic=True)).decode()


def _files(store: Store, region: str, after: str) -> list[Line]:
    of, t = store.plumbing.attached, store.plumbing.attachment
    begin, end = f"regions/{region}/", f"regions/{region}0"
    mine = sa.select(of.c.sha256).where(of.c.name >= begin, of.c.name < end)
    asked = (
        sa.select(t.c.sha256, t.c.media_type, t.c.size_bytes)
        .where(t.c.sha256.in_(mine), t.c.sha256 > after)
        .order_by(t.c.sha256)
        .limit(PAGE)
    )
    return [
        (sha, {"sha256": sha, "media_type": kind, "size_bytes": size})
        for sha, kind, size in store.database.select(asked)
    ]


def _parts(store: Store, region: str, after: str) -> list[Line]:
    """The next part of a file: `after` is its digest and where the part begins."""
    sha, _, at = after.partition(":")
    start = int(at or 0)
    if sha and (row := store.lookup(store.plumbing.attachment, sha256=sha)) and start < row["size_bytes"]:
        said = {"sha256": sha, "media_type": row["media_type"], "size_bytes": row["size_bytes"]}
    else:
        files = _files(store, region, sha)
        if not files:
            return []
        said, start = files[0][1], 0
    sha = said["sha256"]
    whole = b"".join(store.files.read(sha))
    part = whole[start : start + PART]
    row = {**said, "at": start, "part": base64.b64encode(part).decode()}
    return [(f"{sha}:{start + max(len(part), 1)}", row)]


def _requests(store: Store, region: str, after: str) -> list[Line]:
    t, (caller, _, request_id) = store.plumbing.request, after.partition("/")
    asked = (
        t.select()
        .where(t.c.region == region)
        .where(sa.or_(t.c.caller > caller, sa.and_(t.c.caller == caller, t.c.request_id > request_id)))
        .order_by(t.c.caller, t.c.request_id)
        .limit(PAGE)
    )
    found: list[Line] = []
    for row in store.database.select(asked):
        place = f"{row.caller}/{row.request_id}"
        line = {
            "caller": row.caller, "request_id": row.request_id, "fingerprint": row.fingerprint,
            "answer": store.rings.data.decrypt(row.answer, place),
            "time": resources.rfc3339(resources.when(row.time)),
        }  # fmt: skip
        found.append((place, line))
    return found


def _trail(store: Store, region: str, after: str) -> list[Line]:
    """What was done, not what was refused: that goes on while the region moves."""
    t, digest = store.plumbing.audit, after
    asked = (
        t.select().where(t.c.region == region, t.c.result == audit.DONE, t.c.digest > digest)
        .order_by(t.c.digest).limit(PAGE)
    )  # fmt: skip
    found: list[Line] = []
    for row in store.database.select(asked):
        line = {k: v for k, v in row._mapping.items() if k not in ("id", "seal", "time")}
        line["time"] = resources.rfc3339(resources.when(row.time))
        found.append((row.digest, line))
    return found


# writing


def put(store: Store, region: str, cursor: str, page_: tuple[str, list[dict[str, Any]], str]) -> None:
    """Writes the page that was asked for with `cursor`, in the place of what this node has there. What lies
    behind it stays until its own page comes, so that a copy is never less than it was. The trail is never
    shortened."""
    kind, rows, following = page_
    at, _, after = cursor.partition("|")
    after = after if at == kind else ""
    db, own = store.database, store.plumbing
    if kind == REQUESTS and not after:
        db.change(own.request.delete().where(own.request.c.region == region))
    if kind in store.codecs:
        begins = f"regions/{region}/{store.codecs[kind].resource.plural}"
        last = following.partition("|")[2] if rows else ""
        for t in (own.attached, own.step, store.codecs[kind].table):
            behind = t.c.name > max(after, f"{begins}/")
            db.change(t.delete().where(behind, t.c.name <= (last or f"{begins}0")))
    if rows:
        write(store, region, kind, rows)


def write(store: Store, region: str, kind: str, rows: list[dict[str, Any]]) -> None:
    """Writes a page."""
    writers: dict[str, Callable[[Store, str, list[dict[str, Any]]], None]] = {
        INDEX: _write_index, FILES: _write_files, REQUESTS: _write_requests, TRAIL: _write_trail,
    }  # fmt: skip
    if kind in writers:
        writers[kind](store, region, rows)
    else:
        _write_records(store, region, kind, rows)


def _write_index(store: Store, region: str, rows: list[dict[str, Any]]) -> None:
    store.rings.data.adopt_index(region, store.domain, rows[0]["key"])


def _write_files(store: Store, _region: str, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        sha, part = row["sha256"], base64.b64decode(row["part"])
        kept = store.arriving.setdefault(sha, bytearray())
        if row["at"] == 0:
            kept.clear()
        if len(kept) != row["at"]:
            raise errors.Conflict(
                name=f"file {sha}"
            )  # this node was started anew meanwhile: from the beginning
        kept += part
        if len(kept) < row["size_bytes"]:
            continue
        if hashlib.sha256(kept).hexdigest() != sha:
            raise errors.Conflict(name=f"file {sha}")
        with tempfile.SpooledTemporaryFile() as file:
            file.write(bytes(kept))
            file.seek(0)
            store.files.put(sha, file)
        del store.arriving[sha]
        values = {"sha256": sha, "media_type": row["media_type"], "size_bytes": row["size_bytes"],
                  "upload_time": store.instant(resources.utcnow())}  # fmt: skip
        store.add_missing(store.plumbing.attachment, [values])


def _write_requests(store: Store, region: str, rows: list[dict[str, Any]]) -> None:
    values = [
        {**row, "region": region, "time": store.instant(resources.when(row["time"])),
         "answer": store.rings.data.encrypt(row["answer"], f"{row['caller']}/{row['request_id']}")}
        for row in rows
    ]  # fmt: skip
    store.add_missing(store.plumbing.request, values)


def _write_trail(store: Store, _region: str, rows: list[dict[str, Any]]) -> None:
    """Rows of the trail are sealed here again."""
    t = store.plumbing.audit
    there = {d for (d,) in store.database.select(sa.select(t.c.digest).where(
        t.c.digest.in_([row["digest"] for row in rows])))}  # fmt: skip
    values = [{**row, "time": store.instant(resources.when(row["time"]))} for row in rows
              if row["digest"] not in there]  # fmt: skip
    store.add_missing(t, values)


def _write_records(store: Store, region: str, kind: str, rows: list[dict[str, Any]]) -> None:
    codec = store.codecs[kind]
    records, steps, attached = [], [], []
    for row in rows:
        message: Any = codec.resource.cls.FromString(base64.b64decode(row["message"]))
        alarm = store.instant(resources.when(row["alarm"])) if row["alarm"] else None
        records.append(
            {"name": message.name, "region": region, "version": row["version"], "owner": row["owner"],
             "alarm_time": alarm, "digest": row["digest"], **codec.encode(message)}
        )  # fmt: skip
        for raw in row["steps"]:
            step: Any = store.step_class.FromString(base64.b64decode(raw))
            steps.append(store.step_values(message.name, step))
        attached += [{"sha256": sha, "name": message.name} for sha in row["files"]]
    for table, values in (
        (codec.table, records), (store.plumbing.step, steps), (store.plumbing.attached, attached),
    ):  # fmt: skip
        store.add_missing(table, values)


def reduce(store: Store, region: str) -> None:
    """Leaves of a region, when it has another owner, what that owner's events would have brought; the rest
    goes. When time runs out in between, the next call goes on behind what is done."""
    begin, end, db = f"regions/{region}/", f"regions/{region}0", store.database
    for kind, codec in sorted(store.codecs.items()):
        t = codec.table
        if codec.resource.rises not in replication.RISING:
            db.change(t.delete().where(t.c.region == region))
            continue
        while lines := _records(store, region, kind, store.reduced.get((region, kind), "")):
            rows = [_risen(codec, row) for _, row in lines]
            build = functools.partial(statements.update, t, tuple(rows[0]), "")
            sql = db.prepare(("reduce", t.name), build)
            db.transact(functools.partial(db.run_many, sql=sql, rows=rows))
            store.reduced[region, kind] = lines[-1][0]
    own = store.plumbing
    db.change(own.step.update().where(own.step.c.name >= begin, own.step.c.name < end).values(reason=""))
    db.change(own.attached.delete().where(own.attached.c.name >= begin, own.attached.c.name < end))
    db.change(own.request.delete().where(own.request.c.region == region))
    for pair in [pair for pair in store.reduced if pair[0] == region]:
        del store.reduced[pair]
    if store.sqlite:  # what was overwritten in the database stands in its write-ahead log too
        with db.cursor(ends=False) as cursor:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _risen(codec: resources.Codec, row: dict[str, Any]) -> dict[str, Any]:
    message: Any = codec.resource.cls.FromString(base64.b64decode(row["message"]))
    message.etag = str(row["version"])
    published = privacy.risen(message, codec.resource.shape, codec.resource.rises)
    return {"owner": "", "alarm_time": None, **codec.encode(published), "name": message.name}


# between nodes


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
    store.grants.freeze(region, frozen=not thaw)
    row = store.grants.row(region)
    if row is None:
        raise errors.NotOwnedHere(region=region)
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
    kind, rows, cursor = page(call.store, region, request.cursor)
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
    put(store, region, cursor, (found.kind, rows, answer.next_cursor))
    return pb.ImportRegionResponse(next_cursor=answer.next_cursor, rows=len(rows))


def sum_region(request: pb.SumRegionRequest, call: calls.Call) -> pb.SumRegionResponse:
    count, digest = total(call.store, _province_only(call, request.parent))
    return pb.SumRegionResponse(rows=count, digest=digest)


def reduce_region(request: pb.ReduceRegionRequest, call: calls.Call) -> pb.ReduceRegionResponse:
    region = _province_only(call, request.parent)
    if call.store.grants.owned(region):
        raise NotFrozen(region=region)
    reduce(call.store, region)
    return pb.ReduceRegionResponse()


HANDLERS: dict[str, Any] = {
    "FreezeRegion": freeze_region,
    "ExportRegion": export_region,
    "ImportRegion": import_region,
    "SumRegion": sum_region,
    "ReduceRegion": reduce_region,
}
