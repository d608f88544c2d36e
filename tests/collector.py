"""A collector of traces, as a node knows one: it keeps what it is sent by OTLP."""

import concurrent.futures
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps spans, and every byte."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.bytes = b""
        self.address = ""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.bytes += request.SerializeToString()
        for part in request.resource_spans:
            for scope in part.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@contextlib.contextmanager
def listening() -> Iterator[Collector]:
    found = Collector()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)
    found.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield found
    server.stop(0)
