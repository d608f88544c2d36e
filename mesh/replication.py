"""What a node hands to others: the log of a region, behind a cursor; digests to compare copies by; and
records to mend them with. Everything as far as it may leave. Separate from `copies`, which is the receiving
side."""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from mesh import calls, errors, privacy, regions, resources, tables, trust
from mesh.store import Store
from village.mesh.v1 import link_pb2 as pb
from village.options.v1 import options_pb2

BATCH_BYTES, MOST_BYTES = 192 * 1024, 512 * 1024
MOST_ROWS, DIGESTS = 2000, 2000
_ALL = 1 << 62
RISING = (options_pb2.RISES_FULL, options_pb2.RISES_MASKED)


@dataclasses.dataclass(frozen=True)
class Source:
    """A domain whose copies are kept here."""

    domain: str
    urgent: bool
    store: Store
    grown: Callable[[], None]
    """Says that something was copied."""


def may_have(node: str, province: str, region: str) -> bool:
    """Whether a node may have what leaves a region: the province everything; others what lies above them, is
    their own, or lies below them."""
    return node == province or regions.contains(region, node) or regions.contains(node, region)


def _check(call: calls.Call, parent: str) -> str:
    region, directory = resources.region_in(parent), call.services.chain.directory
    if not may_have(call.caller.region, directory.view.province, region):
        raise errors.Forbidden(method=call.method.name, why=f"region {region} is not that node's affair")
    return region


def pull_log(request: pb.PullLogRequest, call: calls.Call) -> pb.PullLogResponse:
    """What stands behind the cursor, in one epoch and incarnation; the next one when that has no more."""
    region, store = _check(call, request.parent), call.store
    logs = _logs(store, region)
    if not logs:
        raise errors.NotFound(name=f"the log of {region} in {store.domain}")
    place = (request.epoch, request.incarnation)
    store.confirmed[region, call.caller.region] = (*place, request.after)
    later = [log for log in logs if log[:2] >= place]
    if not later or (later[-1][:2] == place and request.after > later[-1][2]):
        # this node was restored from a backup that is older than what it has given away, and its log has not
        # begun anew
        raise errors.Conflict(name=f"the log of {region}")
    answer = pb.PullLogResponse(read_time=resources.stamp(resources.utcnow()))
    for epoch, incarnation, numbered in later:
        after = request.after if (epoch, incarnation) == place else 0
        answer.epoch, answer.incarnation, answer.high_water = epoch, incarnation, numbered
        if numbered > after or (epoch, incarnation, numbered) == later[-1]:
            rows = _rows(store, region, (epoch, incarnation), after, request.max_bytes)
            answer.rows = zlib.compress(rows.SerializeToString(), 1)
            answer.floor = rows.rows[0].number if rows.rows else numbered + 1
            break
    return answer


def _logs(store: Store, region: str) -> list[tuple[int, int, int]]:
    t = store.plumbing.relay
    sql = store.database.prepare(
        "logs",
        lambda: (
            sa.select(t.c.epoch, t.c.incarnation, t.c.numbered)
            .where(t.c.region == sa.bindparam("region", type_=tables.TEXT))
            .order_by(t.c.epoch, t.c.incarnation)
        ),
    )
    return [tuple(row) for row in store.database.fetch(sql, {"region": region})]


def _rows(store: Store, region: str, place: tuple[int, int], after: int, most: int) -> pb.LogRows:
    t, big = store.plumbing.outbox, sa.BigInteger
    most = min(most or BATCH_BYTES, MOST_BYTES)
    sql = store.database.prepare(
        "log rows",
        lambda: (
            sa.select(t.c.number, t.c.event_id, t.c.type, t.c.subject, t.c.name, t.c.time, t.c.trace,
                      t.c.audit_digest, t.c.payload, t.c.void)
            .where(t.c.region == sa.bindparam("region", type_=tables.TEXT))
            .where(t.c.epoch == sa.bindparam("epoch", type_=sa.Integer))
            .where(t.c.incarnation == sa.bindparam("incarnation", type_=sa.Integer))
            .where(t.c.number > sa.bindparam("after", type_=big))
            .order_by(t.c.number)
            .limit(sa.bindparam("most", type_=sa.Integer))
            .offset(sa.literal_column("0"))
        ),
    )  # fmt: skip
    values = {"region": region, "epoch": place[0], "incarnation": place[1], "after": after,
              "most": min(most // 200, MOST_ROWS)}  # fmt: skip
    answer, size = pb.LogRows(), 0
    for number, event_id, kind, subject, name, time, trace, digest, payload, void in store.database.fetch(
        sql, values
    ):
        row = pb.LogRow(
            number=number, event_id=event_id, type=kind, subject=subject, name=name,
            time=resources.stamp(resources.when(time)), trace=trace, audit_digest=digest,
            payload=b"" if void else bytes(payload), void=void or "",
        )  # fmt: skip
        size += row.ByteSize()
        if size > most and answer.rows:
            break
        answer.rows.append(row)
    return answer


def confirmed(store: Store, view: trust.View, me: str) -> dict[tuple[str, int, int], int]:
    """For each log the number up to which every node has it that may: what a node asks for, it has up to
    there. A node that has not asked since this one started has confirmed nothing."""
    t, found = store.plumbing.relay, {}
    for region, epoch, incarnation in store.database.select(
        sa.select(t.c.region, t.c.epoch, t.c.incarnation)
    ):
        owner = view.owner(region, store.domain)
        if owner not in (me, "") and view.province != me:
            continue  # a copy that nobody takes from here
        asked = [
            store.confirmed.get((region, node.region), (0, 0, 0))
            for node in view.nodes.values()
            if node.region not in (me, owner) and not node.revoked
            if node.region == view.province or regions.contains(region, node.region)  # who copies it
        ]
        has = [n if (e, i) == (epoch, incarnation) else 0 if (e, i) < (epoch, incarnation) else _ALL
               for e, i, n in asked]  # fmt: skip
        found[region, epoch, incarnation] = min(has, default=_ALL)
    return found


def rising(store: Store) -> Iterator[tuple[str, resources.Codec]]:
    """The kinds of record that copies of this domain are made of."""
    for kind, codec in sorted(store.codecs.items()):
        if codec.resource.rises in RISING:
            yield kind, codec


def totals(store: Store, region: str) -> list[pb.RecordDigest]:
    """For each kind how many there are in a region, and the digest over their lines."""
    found = []
    for kind, codec in rising(store):
        whole, count, after = hashlib.sha256(), 0, ""
        while page := digests(store, codec, region, after):
            for each in page:
                whole.update(f"{each.name} {each.count} {each.digest}\n".encode())
            count, after = count + len(page), page[-1].name
        found.append(pb.RecordDigest(name=kind, count=count, digest=whole.hexdigest()))
    return found


def digests(store: Store, codec: resources.Codec, region: str, after: str) -> list[pb.RecordDigest]:
    """The digests of a region's records of a kind, in the order of their names; the plumbing's keeping of
    what was published makes this one read."""
    t = codec.table
    sql = store.database.prepare(
        ("digests", t.name),
        lambda: (
            sa.select(t.c.name, t.c.version, t.c.digest)
            .where(t.c.region == sa.bindparam("region", type_=tables.TEXT))
            .where(t.c.name > sa.bindparam("after", type_=tables.TEXT))
            .where(t.c.digest != sa.literal_column("''"))  # never announced
            .order_by(t.c.name)
            .limit(sa.bindparam("most", type_=sa.Integer))
            .offset(sa.literal_column("0"))
        ),
    )
    rows = store.database.fetch(sql, {"region": region, "after": after, "most": DIGESTS})
    return [pb.RecordDigest(name=name, count=version, digest=digest) for name, version, digest in rows]


def digest_records(request: pb.DigestRecordsRequest, call: calls.Call) -> pb.DigestRecordsResponse:
    """Totals of every kind, or a page of one kind."""
    region = _check(call, request.parent)
    if not request.kind:
        return pb.DigestRecordsResponse(digests=totals(call.store, region))
    codec = _kind(call.store, request.kind)
    return pb.DigestRecordsResponse(digests=digests(call.store, codec, region, request.after))


def fetch_records(request: pb.FetchRecordsRequest, call: calls.Call) -> pb.FetchRecordsResponse:
    """Records as their events would carry them."""
    region, codec = _check(call, request.parent), _kind(call.store, request.kind)
    answer = pb.FetchRecordsResponse()
    for name in request.names:
        row = call.store.row(codec, name) if resources.region_in(name) == region else None
        if row is not None:
            published = privacy.risen(row.message, codec.resource.shape, codec.resource.rises)
            answer.records.append(published.SerializeToString(deterministic=True))
    return answer


def _kind(store: Store, kind: str) -> resources.Codec:
    found = dict(rising(store)).get(kind)
    if found is None:
        raise errors.Invalid("kind", "is no record of this domain that leaves a node")
    return found


HANDLERS: dict[str, Any] = {
    "PullLog": pull_log,
    "DigestRecords": digest_records,
    "FetchRecords": fetch_records,
}
