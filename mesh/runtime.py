"""A process: services opened on their databases, the chain served by grpcio, relays and timers running,
health that asks the real dependencies, and an ordered stop."""

import asyncio
import concurrent.futures
import dataclasses
import datetime
import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mesh import (
    calls,
    config,
    contract,
    database,
    errors,
    flows,
    identity,
    migrations,
    outbox,
    privacy,
    resources,
    rpc,
    store,
    timers,
)  # fmt: skip

MESSAGE_BYTES = 4 * 1024 * 1024
HEALTH_S = 2.0
LEAST_BYTES = 32 * 1024 * 1024
TICK_S = 1.0
RENEW_S = 3600.0
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Service:
    """A domain's service: what is listed in its `service.py`."""

    domain: str
    package: str
    handlers: Mapping[str, rpc.Handler]
    resources: Sequence[type[Message]] = ()
    lifecycles: Sequence[flows.Flow] = ()
    seed: Callable[[calls.Call], None] | None = None
    """Creates, once, what the domain cannot work without."""
    migrations: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Condition:
    """How a hosted service is. `trouble` is empty when it is ready."""

    domain: str
    trouble: str
    backlog: int


class Hosted:
    """A service opened in this process."""

    def __init__(
        self,
        service: Service,
        settings: config.Settings,
        ring: privacy.KeyRing,
        clock: Callable[[], datetime.datetime] = resources.utcnow,
    ) -> None:
        self.service, self._clock = service, clock
        self.store: store.Store | None = None
        self.relay: outbox.Relay | None = None
        if service.migrations is None:
            return
        opened = database.Database(
            settings.database_url.replace("{domain}", service.domain), threads=settings.threads
        )
        migrations.upgrade(opened, service.migrations)
        self.store = store.Store(
            domain=service.domain, schema_=store.schema(service.resources), database_=opened, ring=ring,
            flows_=service.lifecycles,
        )  # fmt: skip
        self.store.own(settings.region)
        self.store.refresh_calendar(settings.region, clock())
        timers.recount(self.store, clock())  # years come with a new version of this program
        self.relay = outbox.Relay(self.store, settings.nats_url)
        if service.seed is not None:
            self._seed(service.seed, settings.region)

    def _seed(self, seed: Callable[[calls.Call], None], region: str) -> None:
        assert self.store is not None
        method = contract.Method("", "seed", Message, Message, (), False, frozenset())
        for grant in self.store.grants.all():
            call = calls.Call(self.store, method=method, caller=identity.SYSTEM, reference="system",
                              now=self._clock(), region=grant.region)  # fmt: skip
            seed(call)
            commit = call.commit("", "")
            if commit is not None:
                self.store.commit(commit)

    def condition(self) -> Condition:
        """Asks the database whether it takes writes, and its disk whether there is room for them."""
        if self.store is None:
            return Condition(self.service.domain, "", 0)
        if self.store.database.free_bytes() < LEAST_BYTES:
            return Condition(self.service.domain, "the disk of the database is full", 0)
        try:
            self.store.database.transact(lambda cursor: cursor.execute("SELECT 1") and None)
            backlog = sum(outbox.Log(self.store, grant).backlog() for grant in self.store.grants.all())
        except errors.Refusal as refusal:
            return Condition(self.service.domain, str(refusal), 0)
        return Condition(self.service.domain, "", backlog)

    def committed(self) -> None:
        if self.relay is not None:
            self.relay.wake()


class _Reflection(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Reflection under both of its names: v1 differs from v1alpha in nothing but that."""

    def __init__(self, services: Sequence[str]) -> None:
        servicer = reflection.ReflectionServicer(services)
        self._handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )

    def service(self, handler_call_details: Any) -> Any:
        names = [f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha")]
        return self._handler if handler_call_details.method in names else None


def assemble(
    services: Sequence[Service],
    settings: config.Settings,
    *,
    clock: Callable[[], datetime.datetime] = resources.utcnow,
    node: object = None,
) -> tuple[list[Hosted], rpc.Chain]:
    """Opens services and puts their methods behind one chain; stops the process when the contract and
    the handlers differ."""
    ring = privacy.load(settings.key_ring)
    opened = [Hosted(service, settings, ring, clock) for service in services]
    issuers = identity.Issuers(settings.issuers, settings.audience)
    chain = rpc.Chain(issuers=issuers, ring=ring, region=settings.region, node=node, clock=clock)
    for hosted in opened:
        found, handlers = contract.read(hosted.service.package), hosted.service.handlers
        if found.methods.keys() != handlers.keys():
            differ = sorted(found.methods.keys() ^ handlers.keys())
            raise contract.BadContract(f"villagemesh: {found.package} and its handlers differ in {differ}")
        for method in found.methods.values():
            endpoint = rpc.Endpoint(method, handlers[method.name], hosted.store, hosted.committed)
            chain.add(endpoint)
    return opened, chain


class Process:
    """Everything that one `serve` runs."""

    def __init__(self, services: Sequence[Service], settings: config.Settings) -> None:
        self.settings = settings
        self.hosted, self.chain = assemble(services, settings, node=self)
        paths = {path.split("/")[1] for path in self.chain.endpoints}
        self._services = sorted(paths | {reflection.SERVICE_NAME, health.SERVICE_NAME})
        self._stop = threading.Event()
        self._health = health.HealthServicer()
        self._server = self._grpc_server()
        self._loop = asyncio.new_event_loop()
        self._threads = [
            threading.Thread(target=run, name=run.__name__, daemon=True)
            for run in (self._relay, self._ring, self._watch)
        ]

    def conditions(self) -> list[Condition]:
        """How each service is."""
        return [hosted.condition() for hosted in self.hosted if hosted.store is not None]

    def _grpc_server(self) -> Any:
        pool = concurrent.futures.ThreadPoolExecutor(self.settings.threads, thread_name_prefix="call")
        server = grpc.server(
            pool,
            handlers=[rpc.GrpcHandler(self.chain)],
            maximum_concurrent_rpcs=self.settings.threads * 5,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((_Reflection(self._services),))
        if self.settings.listen.startswith("unix:"):
            pathlib.Path(self.settings.listen.removeprefix("unix:")).unlink(missing_ok=True)
        if not server.add_insecure_port(self.settings.listen):
            raise SystemExit(f"villagemesh: cannot listen on {self.settings.listen}")
        return server

    def start(self) -> None:
        self._server.start()
        for thread in self._threads:
            thread.start()

    def stop(self, patience: float = 10.0) -> None:
        """Stops in order: no new calls, calls in hand finished, what they committed published."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace=patience).wait()
        self._stop.set()
        for thread in self._threads:
            thread.join(patience)
        for hosted in self.hosted:
            if hosted.store is not None:
                hosted.store.database.close()

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.set())
        self.start()
        log.info("serving", extra={"about": {"listen": self.settings.listen, "services": self._services}})
        asked.wait()
        self.stop()

    # threads

    def _relay(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run_relays())
        self._loop.close()

    async def _run_relays(self) -> None:
        tasks = [asyncio.ensure_future(h.relay.run()) for h in self.hosted if h.relay is not None]
        while not self._stop.is_set():
            await asyncio.sleep(0.1)
        for _ in range(20):  # what the last calls committed
            if not any(c.backlog for c in await asyncio.to_thread(self.conditions)):
                break
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ring(self) -> None:
        waited = 0.0
        while not self._stop.wait(TICK_S):
            waited += TICK_S
            for hosted in self.hosted:
                if hosted.store is None:
                    continue
                try:
                    self._tick(hosted, hosted.store, renew=waited >= RENEW_S)
                except Exception:
                    log.exception("timers wait", extra={"about": {"domain": hosted.service.domain}})
            waited %= RENEW_S

    def _tick(self, hosted: Hosted, opened: store.Store, *, renew: bool) -> None:
        now = resources.utcnow()
        changed = timers.ring(opened, now)
        if renew:
            opened.forget_requests(now)
            if opened.refresh_calendar(self.settings.region, now):
                changed += timers.recount(opened, now)
        if changed:
            hosted.committed()

    def _watch(self) -> None:
        """Keeps health true."""
        while True:
            troubled = {c.domain for c in self.conditions() if c.trouble}
            serving, not_serving = (
                health_pb2.HealthCheckResponse.SERVING,
                health_pb2.HealthCheckResponse.NOT_SERVING,
            )
            for name in self._services:
                domain = name.split(".")[1] if name.startswith("village.") else ""
                self._health.set(name, not_serving if domain in troubled else serving)
            self._health.set("", not_serving if troubled else serving)
            if self._stop.wait(HEALTH_S):
                return
