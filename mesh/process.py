"""A process: the chain served by grpcio, relays, reactions and timers running, health that asks the real
dependencies, and an ordered stop. Separate from `runtime`, which opens the services."""

import asyncio
import functools
import gc
import logging
import pathlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mesh import (
    conditions,
    config,
    deliveries,
    links,
    metrics,
    replication,
    resources,
    routes,
    runtime,
    spans,
    telemetry,
    transport,
    trust,
)
from village.mesh.v1 import directory_pb2

MESSAGE_BYTES = 4 * 1024 * 1024
HEALTH_S = 2.0
TICK_S = 1.0
DELIVER_S = 1.0
RENEW_S = 3600.0
YOUNG = 20_000
"""After so many new objects Python looks for cycles, of which calls and batches leave none. What a start
makes stays, and is not looked through."""
ASKING_S = 20.0
"""How long a question to a database may take at the end, with its time-outs."""
log = logging.getLogger(__name__)


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


class Process:
    """Everything that one `serve` runs. `pulls`: makes what brings copies (`gateway.pulling.Puller`)."""

    def __init__(
        self, services: Sequence[runtime.Service], settings: config.Settings, pulls: Callable[..., Any]
    ) -> None:
        self.settings, self._pulls = settings, pulls
        self._traces = (
            telemetry.export(settings.otlp, settings.trace_ratio, [s.domain for s in services])
            if settings.otlp
            else None
        )
        self._deliverers: list[deliveries.Deliverer] = []
        self.directory: trust.Directory | None = None
        self.lines: links.Links | None = None
        if settings.trust:
            folder, key = pathlib.Path(settings.trust), pathlib.Path(settings.node_key)
            self.directory = trust.Directory(folder, key, settings.region)
        self.hosted, self.chain = runtime.assemble(services, settings, node=self, directory=self.directory)
        if self.directory is not None:
            self._join(self.directory)
        self.office: Any = None
        """Where the province signs (`gateway.bundles.Office`); set by the node's service."""
        paths = {path.split("/")[1] for path in self.chain.endpoints}
        self._services = sorted(paths | {reflection.SERVICE_NAME, health.SERVICE_NAME})
        self._stop = threading.Event()
        self._health = health.HealthServicer()
        self._server = self._grpc_server()
        self._loop = asyncio.new_event_loop()
        province = self.directory is not None and self.directory.is_province
        self._threads = [
            threading.Thread(target=run, name=run.__name__, daemon=True)
            for run in (
                self._relay,
                *((self._deliver,) if province and settings.background else ()),
                self._tick,
                self._watch,
            )
        ]

    def _join(self, directory: trust.Directory) -> None:
        """Opens the lines to other nodes, and what comes over them."""
        self.lines = links.Links(
            directory, self.chain, broker=self.settings.nats_url, uplink=self.settings.uplink,
            domains=[h.service.domain for h in self.hosted if self.settings.background],
            threads=self.settings.threads,
        )  # fmt: skip
        self.chain.routes = routes.Routes(directory, self.lines)
        sources = [
            replication.Source(h.service.domain, h.service.urgent, h.store, h.committed)
            for h in self.hosted
            if h.store is not None and h.service.foundation
        ]
        own = [h.store for h in self.hosted if h.store is not None and not h.service.foundation]
        self._puller = self._pulls(self.lines, sources, own[0] if own else None, self.settings)
        for source in sources:
            relay = next(h.relay for h in self.hosted if h.store is source.store)
            assert relay is not None
            relay.told = functools.partial(self.lines.mark, source.domain)
            self._deliverers.append(
                deliveries.Deliverer(source.store, self.lines, self.settings.region, source.grown)
            )

    def conditions(self) -> list[directory_pb2.DomainService]:
        """How each service of this process is."""
        return [conditions.of(hosted.store) for hosted in self.hosted if hosted.store is not None]

    def _grpc_server(self) -> Any:
        pool = self._pool = transport.Pool(self.settings.threads, "call")
        if self.settings.metrics:
            metrics.serve(self.settings.metrics, lambda: pool.in_hand)
        server = grpc.server(
            pool,
            handlers=[transport.GrpcHandler(self.chain, pool)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.http2.bdp_probe", 0),  # it would take in a whole file before anybody reads it
                ("grpc.so_reuseport", self.settings.shared),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((_Reflection(self._services),))
        if self.settings.otlp:
            server.add_generic_rpc_handlers((spans.Handler(self.settings.otlp),))
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
        self._pool.shutdown(wait=True)  # none may use a database that is being closed
        self._stop.set()
        for thread in self._threads:
            thread.join(patience + ASKING_S)
        busy = any(thread.is_alive() for thread in self._threads)
        for hosted in self.hosted:
            if hosted.store is not None and not busy:  # closing one that is in use may crash
                hosted.store.database.close()
        if self._traces is not None:
            self._traces.shutdown()

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        asked = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: asked.set())
        self.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG)
        log.info("serving", extra={"about": {"listen": self.settings.listen, "services": self._services}})
        asked.wait()
        self.stop()

    # threads

    def _relay(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run_relays())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())  # what asks the database
        self._loop.close()

    async def _run_relays(self) -> None:
        working = self.hosted if self.settings.background else []
        relays = [asyncio.ensure_future(h.relay.run()) for h in working if h.relay is not None]
        reactors = [asyncio.ensure_future(h.reactor.run()) for h in working if h.reactor and h.service.reacts]
        lines: list[Any] = [asyncio.ensure_future(feed) for feed in self._feeds()]
        if self.lines is not None:
            lines.append(asyncio.ensure_future(self.lines.run()))
            if self.settings.background:
                lines.append(asyncio.ensure_future(self._puller.run()))
        while not self._stop.is_set():
            await asyncio.sleep(0.1)
        for task in (*reactors, *lines):
            task.cancel()
        for _ in range(20):  # what the last calls committed
            if not relays or not any(c.backlog for c in await asyncio.to_thread(self.conditions)):
                break
            await asyncio.sleep(0.1)
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, *reactors, return_exceptions=True)
        await asyncio.gather(*lines, return_exceptions=True)
        if self.lines is not None:
            self.lines.close()

    def _feeds(self) -> list[Any]:
        """What takes in what devices send; of several processes the one that does the rest too."""
        listening = dict(pair.split("=", 1) for pair in self.settings.feeds.split(",") if pair)
        if not self.settings.background:
            return []
        return [
            feed(hosted, self.settings.nats_url, listening[name])
            for hosted in self.hosted
            for name, feed in hosted.service.feeds.items()
            if name in listening
        ]

    def _tick(self) -> None:
        waited = 0.0
        while not self._stop.wait(TICK_S):
            waited += TICK_S
            self.chain.rings.refresh()
            for hosted in self.hosted:
                try:
                    hosted.tick()
                    if hosted.service.ticks is not None:
                        hosted.service.ticks(self, hosted)
                    if waited >= RENEW_S:
                        hosted.renew()
                except Exception:
                    log.exception("timers wait", extra={"about": {"domain": hosted.service.domain}})
            waited %= RENEW_S

    def _deliver(self) -> None:
        """Delivers what was deferred; a thread of its own, because an owner may be slow to answer."""
        while not self._stop.wait(DELIVER_S):
            for hosted in self.hosted:
                if hosted.service.carries is not None:
                    try:
                        hosted.service.carries(self, hosted)
                    except Exception:
                        log.exception("what is carried on waits")
            for deliverer in self._deliverers:
                try:
                    deliverer.deliver(resources.utcnow())
                except Exception:
                    log.exception("deliveries wait")

    def _watch(self) -> None:
        """Keeps health true."""
        while True:
            found = self.conditions()
            troubled = {c.domain for c in found if c.trouble}
            for condition in found:
                metrics.backlog.labels(condition.domain).set(condition.backlog)
                metrics.ready.labels(condition.domain).set(not condition.trouble)
            state = health_pb2.HealthCheckResponse
            for name in self._services:
                domain = name.split(".")[1] if name.startswith("village.") else ""
                self._health.set(name, state.NOT_SERVING if domain in troubled else state.SERVING)
            self._health.set("", state.NOT_SERVING if troubled else state.SERVING)
            if self._stop.wait(HEALTH_S):
                return
