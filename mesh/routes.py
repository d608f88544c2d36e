"""Where a call goes that is for another owner: served here, answered from a copy, passed on, or refused.
Separate from who owns what, which the commit asks too."""

import dataclasses
import datetime
from typing import Any

from mesh import contract, deliveries, errors, identity, links, regions, resources, rpc, trust
from village.options.v1 import options_pb2

READ, SERVED_BY, AS_OF = "x-village-read", "x-village-served-by", "x-village-as-of"


@dataclasses.dataclass(frozen=True)
class PassedOn:
    """An answer of another node, as its bytes."""

    raw: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - as a message's
        return self.raw


class Routes:
    """Where a call goes: served here, answered from a copy, passed on, or refused."""

    def __init__(self, directory: trust.Directory, lines: links.Links) -> None:
        self.directory, self.lines = directory, lines

    def elsewhere(self, endpoint: Any, incoming: Any, asking: Any, named: str) -> Any:
        """The owner's answer, or None when this node is to answer by itself. `named`: the record or the place
        that the call is about."""
        me, told, method, store = self.directory.region, incoming.told, endpoint.method, endpoint.store
        told[SERVED_BY] = me
        wanted = incoming.headers.get(READ, "")
        if wanted not in ("", "owner", "replica"):
            raise errors.Invalid(READ, "is owner or replica")
        if store is None or not named or local(method):
            return None
        view, region = self.directory.view, resources.region_in(named)
        if not regions.valid(region) or store.grants.owned(region):
            if (whole := self._of_all_below(endpoint, incoming, asking, named)) is not None:
                return whole
            if listing(method, named):
                self._date(told, store, region, asking.now)
            else:
                told[AS_OF] = resources.rfc3339(asking.now)
            return None
        owner = view.owner(region, store.domain)
        if not owner:
            raise errors.NotOwnedHere(region=region)
        if owner == me:  # frozen, or not taken over yet: the commit would refuse
            return None if method.read_only else self._not_now(region)
        if self.directory.is_province:
            return self._down(endpoint, incoming, asking, named, owner)
        if asking.sender == view.province:
            return self._not_now(region)  # the province knows already what this node will hear in a moment
        return self._pass(view.province, endpoint, incoming, asking)

    def _of_all_below(self, endpoint: Any, incoming: Any, asking: Any, named: str) -> Any:
        """A list of a place is of all below it too: of a city's, whose counties are other nodes' and not
        copied here, the province has all, if it can be asked. None where this node has all that is wanted."""
        method, view, store = endpoint.method, self.directory.view, endpoint.store
        wanted, region = incoming.headers.get(READ, ""), resources.region_in(named)
        if self.directory.is_province or asking.sender or wanted == "owner" or not view.province:
            return None
        if not (method.read_only and method.of_copies and listing(method, named)):
            return None
        below = (r for r in view.regions() if r != region and regions.contains(region, r))
        away = not all(store.grants.owned(r) for r in below)
        if not away or self._own_records(method, asking.caller, named):
            return None
        try:
            return self._pass(view.province, endpoint, incoming, asking)
        except (errors.Unavailable, errors.DeadlineExceeded):
            asking.passed_to = ""
            return None

    @staticmethod
    def _not_now(region: str) -> Any:
        raise errors.Unavailable(what=f"the owner of {region}", delay=2.0)

    def _down(self, endpoint: Any, incoming: Any, asking: Any, named: str, owner: str) -> Any:
        method, wanted = endpoint.method, incoming.headers.get(READ, "")
        if method.deferrable:
            return self._pass_or_defer(owner, endpoint, incoming, asking)
        if not method.read_only or not method.of_copies or self._own_records(method, asking.caller, named):
            return self._pass(owner, endpoint, incoming, asking)
        if wanted != "replica" and (wanted == "owner" or not listing(method, named)):
            try:
                return self._pass(owner, endpoint, incoming, asking)
            except (errors.Unavailable, errors.DeadlineExceeded) as fault:
                if wanted == "owner":
                    raise
                asking.unreached = fault
        incoming.told[SERVED_BY] = self.directory.region
        self._date(incoming.told, endpoint.store, resources.region_in(named), asking.now)
        return None

    def _pass_or_defer(self, owner: str, endpoint: Any, incoming: Any, asking: Any) -> Any:
        """The owner's answer; when it does not come in time, a delivery's."""
        me = self.directory.region
        waiting = deliveries.Deferral(endpoint.store, me, endpoint, asking, incoming.raw)
        patience = min(links.until(incoming.remaining) * 0.6, deliveries.DIRECT_S)
        try:
            return self._pass(
                owner, endpoint, dataclasses.replace(incoming, raw=waiting.raw, remaining=patience), asking
            )
        except (errors.Unavailable, errors.DeadlineExceeded):
            asking.passed_to = ""
        name, answer = waiting.keep()
        incoming.told[deliveries.HEADER] = name
        incoming.told.pop(AS_OF, None)
        return rpc.masked(answer)

    @staticmethod
    def _own_records(method: contract.Method, caller: identity.Caller, named: str) -> bool:
        """Whether the caller may read what is his own only: whose a record is does not leave its owner."""
        rule, _ = identity.permit(method, caller, identity.Place(region=resources.region_in(named)))
        return rule.scope == options_pb2.SCOPE_OWN_RECORDS

    def _date(self, told: dict[str, str], store: Any, region: str, now: datetime.datetime) -> None:
        """Says how old an answer is, part of which may be copies: as old as the oldest of them; nothing
        when one is not there at all yet."""
        me, grants = self.directory.region, self.directory.view.grants
        away = [
            r
            for (r, d), g in grants.items()
            if d == store.domain and g.node != me and regions.contains(region, r)
        ]
        known = store.copied_times() if away else {}
        if all(r in known for r in away):
            told[AS_OF] = resources.rfc3339(min((known[r] for r in away), default=now))

    def _pass(self, node: str, endpoint: Any, incoming: Any, asking: Any) -> Any:
        """The owner's answer, or an iterator of them."""
        asking.passed_to = node
        headers, method, raw = links.passed_on(incoming.headers), endpoint.method, incoming.raw
        try:
            if method.streams:
                answer, told = self.lines.stream(node, method, raw, headers, incoming.remaining)
            else:
                patience = links.until(incoming.remaining)
                answer, told = self.lines.call(node, incoming.path, raw, headers, patience)
        except errors.Passed as refusal:
            incoming.told.update(refusal.told)
            raise
        incoming.told.update(told)
        return map(PassedOn, answer) if method.streams_out else PassedOn(answer)


def local(method: contract.Method) -> bool:
    """Whether a method is this very node's, whatever it is about."""
    return method.of_nodes or method.name == "EnrolNode"


def listing(method: contract.Method, named: str) -> bool:
    """Whether a read is of many records, which copies answer, rather than of the one that is named."""
    return method.parent == "parent" and named.count("/") == 1
