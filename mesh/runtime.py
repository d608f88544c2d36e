"""Services opened on their databases and put behind one chain, and what each does beside its calls: limits
that ring, seals, deletions. Separate from the process, so that tests and tools have the same services
without a network."""

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from mesh import (
    attachments,
    audit,
    calls,
    conditions,
    config,
    contract,
    database,
    delegations,
    deliveries,
    devices,
    flows,
    identity,
    keys,
    metrics,
    migrations,
    moving,
    outbox,
    reactions,
    reconciling,
    replication,
    resources,
    rpc,
    seals,
    store,
    timers,
    trust,
    unsealing,
)  # fmt: skip

FOUNDATION: Mapping[str, rpc.Handler] = {
    **attachments.HANDLERS, **delegations.HANDLERS, **unsealing.HANDLERS, **audit.HANDLERS,
    **reactions.HANDLERS, **replication.HANDLERS, **deliveries.HANDLERS, **moving.HANDLERS,
    **reconciling.HANDLERS, **conditions.HANDLERS,
}  # fmt: skip
"""What every domain serves alike; its `foundation.proto` declares it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """A domain's service: what is listed in its `service.py`."""

    domain: str
    package: str
    handlers: Mapping[str, rpc.Handler]
    resources: Sequence[type[Message]] = ()
    series: Callable[[Any], None] | None = None
    """Adds the tables of what is no resource to the domain's: see `store.schema`."""
    lifecycles: Sequence[flows.Flow] = ()
    reacts: Sequence[reactions.Reaction] = ()
    seed: Callable[[calls.Call], None] | None = None
    """Creates, once, what the domain cannot work without."""
    migrations: pathlib.Path | None = None
    foundation: bool = True
    """Whether it serves what every domain serves alike."""
    urgent: bool = False
    """Whether its events overtake those of other domains on the way to another node."""
    ticks: Callable[[Any, "Hosted"], None] | None = None
    """What else the process and the opened service do about once a second."""
    feeds: Mapping[str, devices.Feed] = dataclasses.field(default_factory=dict)
    """What takes in what devices send, by the names in `Settings.feeds`."""
    carries: Callable[[Any, "Hosted"], None] | None = None
    """The same for what may take long."""


class Hosted:
    """A service opened in this process."""

    def __init__(
        self,
        service: Service,
        settings: config.Settings,
        rings: keys.Rings,
        clock: Callable[[], datetime.datetime] = resources.utcnow,
        directory: trust.Directory | None = None,
    ) -> None:
        self.service, self._clock, self._settings = service, clock, settings
        self._directory, self._adopted = directory, -1
        self.refusals = audit.Refusals()
        self.store: store.Store | None = None
        self.relay: outbox.Relay | None = None
        self.reactor: reactions.Reactor | None = None
        if service.migrations is None:
            return
        opened = database.Database(
            settings.database_url.replace("{domain}", service.domain), threads=settings.threads
        )
        migrations.upgrade(opened, service.migrations)
        schema = store.schema(service.resources, service.series)
        self.store = store.Store(
            domain=service.domain, schema_=schema, database_=opened, rings=rings,
            flows_=service.lifecycles, files=attachments.Files(settings.attachments_url),
            reactions=service.reacts,
        )  # fmt: skip
        if directory is None:
            self.store.own(settings.region)
        self.store.refresh_calendar(settings.region, clock())
        timers.recount(self.store, clock())  # years come with a new version of this program
        self.relay = outbox.Relay(self.store, settings.nats_url)
        self.reactor = reactions.Reactor(
            self.store, settings.nats_url, settings.region, self.committed, clock
        )
        self._sealer = seals.Sealer(
            opened, self.store.plumbing, service.domain, seals.private_key(settings.audit_key),
            seals.Anchors(settings.anchors, service.domain).add,
        )  # fmt: skip
        self._adopt(self.store)
        if service.seed is not None and directory is None:
            self._seed(self.store, service.seed)

    def _adopt(self, opened: store.Store) -> None:
        """Takes and leaves pairs as the directory says, when it has changed."""
        if self._directory is None or (view := self._directory.view).version == self._adopted:
            return
        opened.grants.adopt(view, self._settings.region)
        if self.service.seed is not None:
            self._seed(opened, self.service.seed)
        self._adopted = view.version
        self.committed()

    def _seed(self, opened: store.Store, seed: Callable[[calls.Call], None]) -> None:
        for grant in opened.grants.all():
            call = calls.own(opened, "seed", self._clock(), grant.region)
            seed(call)
            commit = call.changes.commit()
            if commit is not None:
                opened.commit(commit)

    def committed(self) -> None:
        if self.relay is not None:
            self.relay.wake()

    def tick(self) -> None:
        """What is done about once a second: refused calls written down, limits that are missed, the trail
        sealed; the last two by one process of several."""
        if self.store is None:
            return
        now = self._clock()
        self._adopt(self.store)
        audit.write_refusals(self.store.database, self.store.plumbing, self.refusals, now)
        if not self._settings.background:
            return
        if rung := timers.ring(self.store, now):
            metrics.rung.labels(self.service.domain).inc(rung)
            self.committed()
        count = seals.BATCH
        while count == seals.BATCH:
            count = self._sealer.seal(now)
            metrics.sealed.labels(self.service.domain).inc(count)

    def renew(self) -> None:
        """What is done about once an hour: what has been kept long enough goes, new holidays come."""
        if self.store is None:
            return
        now = self._clock()
        self.store.forget_requests(now)
        reactions.forget(self.store, now)
        attachments.collect(self.store, now)
        others = None
        if self._directory is not None:
            others = replication.confirmed(self.store, self._directory.view, self._settings.region)
        outbox.trim(self.store, now, others)
        if self.store.refresh_calendar(self._settings.region, now) and timers.recount(self.store, now):
            self.committed()


def assemble(
    services: Sequence[Service],
    settings: config.Settings,
    *,
    clock: Callable[[], datetime.datetime] = resources.utcnow,
    node: object = None,
    directory: trust.Directory | None = None,
) -> tuple[list[Hosted], rpc.Chain]:
    """Opens services and puts their methods behind one chain; stops the process when the contract and
    the handlers differ."""
    rings = keys.Rings(keys.KeyRing(settings.key_ring), keys.KeyRing(settings.seal_ring))
    opened = [Hosted(service, settings, rings, clock, directory) for service in services]
    issuers = identity.Issuers(settings.issuers, settings.audience, directory)
    chain = rpc.Chain(
        issuers=issuers, rings=rings, region=settings.region, node=node, directory=directory, clock=clock
    )
    for hosted in opened:
        found, handlers = contract.read(hosted.service.package), dict(hosted.service.handlers)
        if hosted.store is not None and hosted.service.foundation:
            handlers = {**FOUNDATION, **handlers}
        if found.methods.keys() != handlers.keys():
            differ = sorted(found.methods.keys() ^ handlers.keys())
            what = "foundation.proto" if {*differ} == {*FOUNDATION} else differ
            raise contract.BadContract(f"villagemesh: {found.package} and its handlers differ in {what}")
        for method in found.methods.values():
            handler, told = handlers[method.name], hosted.refusals
            chain.add(rpc.Endpoint(method, handler, hosted.store, hosted.committed, told))
    return opened, chain
