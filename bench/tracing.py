"""What tracing costs a get: GetReport in process, a tenth of the traces sent by OTLP to a collector that
throws them away in a process of its own, beside the same without tracing."""

import concurrent.futures
import multiprocessing
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import sqlalchemy as sa
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from bench import figures, places
from mesh import rpc, telemetry
from village.habitat.v1 import report_pb2 as pb

CALLS, PAIRS, RATIO = 1500, 9, 0.1
NAMES = ["traced.sqlite"]
_SPAWN: Any = multiprocessing.get_context("spawn")


def measure(_names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """The one figure."""
    home = folder / "tracing"
    home.mkdir()
    at = places.place("sqlite", home, server)
    listening, telling = _SPAWN.Pipe()
    collector = _SPAWN.Process(target=_collect, args=(telling,), daemon=True)
    collector.start()
    provider = telemetry.export(f"127.0.0.1:{listening.recv()}", RATIO, ["habitat"])
    tracers = list(telemetry._tracers)
    raw = pb.GetReportRequest(name=at.name).SerializeToString()
    path = at.county.contract.methods["GetReport"].path
    incoming = rpc.Incoming(path, raw, {"authorization": f"Bearer {at.token()}"})

    def rate(traced: bool) -> float:
        telemetry._tracers[:] = tracers if traced else []
        begun = time.perf_counter()
        for _ in range(CALLS):
            at.county.chain.answer(incoming)
        return CALLS / (time.perf_counter() - begun)

    rate(True), rate(False)
    value, least, ratio, spread = figures.pairs(lambda: rate(True), lambda: rate(False), PAIRS)
    provider.shutdown()
    telemetry._tracers.clear()
    collector.terminate()
    about = {
        "call": "GetReport in process, one after another", "sampled": f"{RATIO:.0%}, sent by OTLP",
        "database": places.DURABILITY["sqlite"], "runs": f"{PAIRS} pairs of {CALLS} calls in turn",
        "ratios": spread, "target": "at most a tenth of a get as served (get.sqlite.1)",
        "load average": figures.load_average(),
    }  # fmt: skip
    yield figures.Figure(NAMES[0], round(value, 1), "calls/s", round(least, 1), round(ratio, 3), about)


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        return trace_service_pb2.ExportTraceServiceResponse()


def _collect(telling: Any) -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Collector(), server)
    telling.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()
