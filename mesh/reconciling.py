"""Comparing a copy with its owner and mending it (对账): totals first, then what differs by name, then only
those records. Separate from pulling, which it stands in for where a log no longer reaches back."""

import logging
from collections.abc import Iterator
from typing import Any

from mesh import calls, conditions, copies, errors, links, replication
from mesh.store import Store
from village.mesh.v1 import directory_pb2
from village.mesh.v1 import link_pb2 as pb
from village.mesh.v1.directory_pb2 import CopyDifference

TIMEOUT_S = 15.0
FETCHED = 200
NAMED = 100
log = logging.getLogger(__name__)


class Reconciler:
    """Compares one domain's copies with their owners."""

    def __init__(self, store: Store, lines: links.Links) -> None:
        self._store, self._lines = store, lines
        self._copies = copies.Copies(store)

    def reconcile(self, region: str, node: str, *, mend: bool = True) -> list[CopyDifference]:
        """What differs between the copy of a region and what `node` has; mended unless told otherwise."""
        answer = self._ask(node, "DigestRecords", pb.DigestRecordsRequest(parent=f"regions/{region}"))
        theirs = {d.name: d for d in pb.DigestRecordsResponse.FromString(answer).digests}
        found: list[CopyDifference] = []
        for mine in replication.totals(self._store, region):
            their = theirs.get(mine.name, pb.RecordDigest())
            if (mine.count, mine.digest) != (their.count, their.digest):
                difference = CopyDifference(kind=mine.name, here=mine.count, there=their.count)
                self._compare(region, node, difference)
                if difference.missing or difference.other or difference.extra:
                    found.append(difference)
                    if mend:
                        self._mend(region, node, difference)
        if found:
            about: dict[str, Any] = {
                "region": region, "domain": self._store.domain, "node": node, "mended": mend,
            }  # fmt: skip
            for d in found:
                about[d.kind] = f"{len(d.missing)} missing, {len(d.other)} other, {len(d.extra)} extra"
            log.warning("a copy differs from its owner", extra={"about": about})
        return found

    def _compare(self, region: str, node: str, difference: CopyDifference) -> None:
        codec = self._store.codecs[difference.kind]
        mine = self._pages(lambda after: replication.digests(self._store, codec, region, after))
        theirs = self._pages(lambda after: self._their_page(region, node, difference.kind, after))
        here, there = next(mine, None), next(theirs, None)
        while here is not None or there is not None:
            if there is None or (here is not None and here.name < there.name):
                assert here is not None
                difference.extra.append(here.name)
                here = next(mine, None)
            elif here is None or there.name < here.name:
                difference.missing.append(there.name)
                there = next(theirs, None)
            else:
                if (here.count, here.digest) != (there.count, there.digest):
                    difference.other.append(here.name)
                here, there = next(mine, None), next(theirs, None)

    @staticmethod
    def _pages(page: Any) -> Iterator[pb.RecordDigest]:
        after = ""
        while found := page(after):
            yield from found
            after = found[-1].name

    def _their_page(self, region: str, node: str, kind: str, after: str) -> list[pb.RecordDigest]:
        request = pb.DigestRecordsRequest(parent=f"regions/{region}", kind=kind, after=after)
        return list(pb.DigestRecordsResponse.FromString(self._ask(node, "DigestRecords", request)).digests)

    def _mend(self, region: str, node: str, difference: CopyDifference) -> None:
        """Asks for each record again, those that seem to be extra too: they may be younger than the
        comparison."""
        codec = self._store.codecs[difference.kind]
        wanted = [*difference.missing, *difference.other, *difference.extra]
        for at in range(0, len(wanted), FETCHED):
            names = wanted[at : at + FETCHED]
            request = pb.FetchRecordsRequest(parent=f"regions/{region}", kind=difference.kind, names=names)
            records = pb.FetchRecordsResponse.FromString(self._ask(node, "FetchRecords", request)).records
            there = self._copies.mend(codec, region, list(records))
            self._copies.drop(codec, region, [name for name in names if name not in there])

    def _ask(self, node: str, method: str, request: Any) -> bytes:
        path = f"/village.{self._store.domain}.v1.LogService/{method}"
        raw, _ = self._lines.call(node, path, request.SerializeToString(), {}, TIMEOUT_S)
        return raw


def with_owner(call: calls.Call, region: str, *, mend: bool) -> list[CopyDifference]:
    """What differs between the copy of a region that is here and its owner; see `Reconciler`. NotFound when
    there is none."""
    routes, store = call.services.chain.routes, call.store
    if routes is None or store.grants.owned(region):
        raise errors.NotFound(name=f"copy of {store.domain} in {region}")
    view = routes.directory.view
    node = view.owner(region, store.domain) if routes.directory.is_province else view.province
    return Reconciler(store, routes.lines).reconcile(region, node, mend=mend)


def reconcile_copy(
    request: directory_pb2.ReconcileCopyRequest, call: calls.Call
) -> directory_pb2.ReconcileCopyResponse:
    """What differed, with not more names than somebody reads."""
    conditions.only_itself(call)
    found = with_owner(call, request.about_region, mend=not request.only_compare)
    for difference in found:
        for k in ("missing", "other", "extra"):
            names = getattr(difference, k)
            setattr(difference, f"{k}_count", len(names))
            del names[NAMED:]
    return directory_pb2.ReconcileCopyResponse(differences=found)


HANDLERS: dict[str, Any] = {"ReconcileCopy": reconcile_copy}
