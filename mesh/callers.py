"""Who calls: a person by his token, his deputy, a node in its own name, or a person on whose behalf the
province calls late. Separate from `identity`, which knows tokens and rules, and from the chain, which only
asks."""

import dataclasses
import datetime
from typing import Any

from mesh import delegations, errors, identity, keys, trust

ACTING_FOR = "x-village-acting-for"
NODE = "x-village-node"
"""The header in which a node proves who it is: `mesh.trust.Directory.token`."""

CERTIFICATE = "x-forwarded-client-cert"
"""The header in which the office of this node's own gateway tells whose certificate a call came with; nobody
else's gets past it."""


class Callers:
    """Works out who calls, and how he stands in what is kept."""

    def __init__(
        self, issuers: identity.Issuers, rings: keys.Rings, directory: trust.Directory | None, region: str
    ) -> None:
        self._issuers, self._rings, self.directory, self._region = issuers, rings, directory, region
        self._references: dict[tuple[identity.Caller, str, str], str] = {}

    def settle(self, endpoint: Any, incoming: Any, asking: Any) -> None:
        """Fills in who asks."""
        headers = incoming.headers
        if CERTIFICATE in headers and self.directory is not None:
            self.directory.refuse_revoked(headers[CERTIFICATE])
        if NODE in headers:
            if self.directory is None:
                raise errors.Unauthenticated(why="this node belongs to no mesh")
            asking.sender = self.directory.sender(headers[NODE], asking.now)
            if identity.VOUCHED in headers and asking.sender == self.directory.view.province:
                asking.caller, asking.asked = self._late(headers[identity.VOUCHED], incoming.raw)
                return
        own = asking.sender if endpoint.method.of_nodes else ""
        asking.caller = self._caller(headers, asking.now, own)

    def _late(self, proof: str, raw: bytes) -> tuple[identity.Caller, datetime.datetime]:
        """The province's word on who asked, and when."""
        assert self.directory is not None
        claims, asked = self.directory.vouched(proof, raw)
        deputy = str(claims.pop("deputy", ""))
        if not claims.get("sub"):
            return identity.PUBLIC, asked
        return dataclasses.replace(self._issuers.vouch(claims), deputy=deputy), asked

    def _caller(self, headers: Any, now: datetime.datetime, node: str) -> identity.Caller:
        authorization = headers.get("authorization", "")
        if not authorization:
            return identity.of_node(node) if node else identity.PUBLIC
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.Unauthenticated(why="authorization is not `Bearer TOKEN`")
        return self._issuers.caller(token.strip(), now.timestamp())

    def stand_in(self, endpoint: Any, incoming: Any, asking: Any) -> None:
        """Makes a deputy the official whom he stands in for; Forbidden when nobody made him one here."""
        caller = asking.caller
        if caller.deputy or not caller.subject:
            return
        deputy = self.reference(caller, endpoint.store, self._region)
        principal = incoming.headers[ACTING_FOR]
        asking.caller = delegations.acting(
            endpoint.store, self._issuers, caller, principal=principal, reference=deputy, now=asking.now
        )
        identity.permit(endpoint.method, asking.caller, None)

    def reference(self, caller: identity.Caller, store: Any, region: str) -> str:
        """How the caller stands in what is kept of a region: officials by subject, others sealed by the
        region's key, which moves with it."""
        if caller.official or not caller.subject:
            return caller.subject
        domain = store.domain if store is not None else ""
        known = self._references.get((caller, domain, region))
        if known is None:
            if len(self._references) >= 10_000:
                self._references.clear()
            whole = f"{caller.issuer}|{caller.subject}"
            known = f"sealed:{self._rings.data.index(whole, region=region, domain=domain)}"
            self._references[caller, domain, region] = known
        return known
