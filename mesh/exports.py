"""All that a node has of a region in one domain, page by page, for the node that is to own it next (移交):
records as they are, histories, files, answers kept for repetitions, the trail, and the key of its keyed
digests. Separate from `replication`, which hands out only what may leave."""

import base64
import functools
import hashlib
import json
import math
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from mesh import attachments, audit, errors, privacy, replication, resources, statements
from mesh.store import Store, series

PAGE, SERIES_PAGE, PART = 200, 2000, 256 * 1024
INDEX, FILES, REQUESTS, TRAIL = "index", "files", "requests", "trail"
Line = tuple[str, dict[str, Any]]
"""A row's key, and the row."""


def kinds(store: Store) -> list[str]:
    """What an export holds, in the order in which it can be written again."""
    return [INDEX, FILES, *sorted(store.codecs), *series(store.metadata), REQUESTS, TRAIL]


def page(store: Store, region: str, cursor: str) -> tuple[str, list[dict[str, Any]], str]:
    """(kind, rows, cursor of the next page; empty when this was the last)."""
    order = kinds(store)
    kind, after = _place(order, cursor)
    lines = _lines(store, region, kind, after)
    if lines and kind != INDEX:
        return kind, [row for _, row in lines], f"{kind}|{lines[-1][0]}"
    following = order[order.index(kind) + 1 :]
    return kind, [row for _, row in lines], f"{following[0]}|" if following else ""


def _place(order: list[str], cursor: str) -> tuple[str, str]:
    """(kind, key of the row before): where a cursor points."""
    kind, _, after = cursor.partition("|")
    kind = kind or order[0]
    key = r"[0-9a-f]*(:\d{1,15})?" if kind == FILES else r"[^\0]*"
    if kind not in order or not re.fullmatch(key, after):
        raise errors.Invalid("cursor", "is not one that an export gave")
    return kind, after


def stretch(store: Store, region: str, cursor: str, digest: str, seconds: float) -> tuple[int, str, str]:
    """(rows, digest, cursor) of an export from a cursor on, as far as one comes in that time; the digest goes
    on from the one before, page by page, files by their own digests. Without the trail: that of an earlier
    time may be longer here, and proves itself."""
    order, count, until = kinds(store)[:-1], 0, time.monotonic() + seconds
    kind, after = _place(order, cursor)
    while True:
        lines = _lines(store, region, kind, after, contents=False)
        if lines:
            told = json.dumps([kind, digest, *(row for _, row in lines)], sort_keys=True, ensure_ascii=False)
            digest, count = hashlib.sha256(told.encode()).hexdigest(), count + len(lines)
        if lines and kind != INDEX:
            after = lines[-1][0]
        elif kind == order[-1]:
            return count, digest, ""
        else:
            kind, after = order[order.index(kind) + 1], ""
        if time.monotonic() >= until:
            return count, digest, f"{kind}|{after}"


def total(store: Store, region: str) -> tuple[int, str]:
    """(rows, digest) of a whole export."""
    return stretch(store, region, "", "", math.inf)[:2]


def _lines(store: Store, region: str, kind: str, after: str, *, contents: bool = True) -> list[Line]:
    if kind == INDEX:
        return [("", {"key": store.rings.data.index_key(region, store.domain)})]
    if kind == FILES:
        return _parts(store, region, after) if contents else _files(store, region, after)
    if kind == REQUESTS:
        return _requests(store, region, after)
    if kind == TRAIL:
        return _trail(store, region, after)
    if kind not in store.codecs:
        return _series(store, region, kind, after)
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


def _series(store: Store, region: str, kind: str, after: str) -> list[Line]:
    """Rows of a table that holds no resources, behind the key `after`."""
    table = store.metadata.tables[kind]
    keys = list(table.primary_key.columns)
    asked = table.select().where(series(store.metadata)[kind](region)).order_by(*keys).limit(SERIES_PAGE)
    if after:
        try:
            last = [key.type.python_type(v) for key, v in zip(keys, json.loads(after), strict=True)]
        except (ValueError, TypeError):
            raise errors.Invalid("cursor", "is not one that an export gave") from None
        asked = asked.where(sa.tuple_(*keys) > sa.tuple_(*map(sa.literal, last)))
    rows = [dict(row._mapping) for row in store.database.select(asked)]
    return [(json.dumps([row[key.name] for key in keys]), row) for row in rows]


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
    if kind in series(store.metadata) and not after:
        db.change(store.metadata.tables[kind].delete().where(series(store.metadata)[kind](region)))
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
    elif kind not in store.codecs:
        store.add_missing(store.metadata.tables[kind], rows)
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
            sql = db.prepare(("reduce", t.name), build, many=True)
            db.transact(functools.partial(db.run_many, sql=sql, rows=rows))
            store.reduced[region, kind] = lines[-1][0]
    for name, of in series(store.metadata).items():
        db.change(store.metadata.tables[name].delete().where(of(region)))
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
