"""Envoy's spans on their way to the collector. They go through the node's own process, because Envoy puts the
caller's address, user agent and URL and the text of a refusal into a span, and not all of it can be turned
off: here only what a list names goes on."""

import contextlib
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from mesh import transport

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TIMEOUT_S = 5.0

SAID = frozenset(
    (
        *("http.url", "http.method", "http.protocol", "http.status_code", "request_size", "response_size"),
        *("grpc.path", "grpc.status_code", "upstream_cluster", "response_flags", "error"),
    )
)
"""What a span may say. Of `http.url` only the path, which names resources; a query may name persons."""


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes spans as a collector does and passes them on to `endpoint`. The gateway has no route to it."""

    def __init__(self, endpoint: str) -> None:
        self._send = grpc.insecure_channel(endpoint).unary_unary(
            EXPORT, request_serializer=trace_service_pb2.ExportTraceServiceRequest.SerializeToString
        )
        self._handler = grpc.unary_unary_rpc_method_handler(
            transport.own_pool(self._pass_on, transport.Pool(1, "spans")),
            request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        )

    def service(self, handler_call_details: Any) -> Any:
        return self._handler if handler_call_details.method == EXPORT else None

    def _pass_on(self, request: Any, _context: Any) -> bytes:
        """Spans that the collector does not take are lost, as those of the services are."""
        with contextlib.suppress(grpc.RpcError):
            self._send(scrubbed(request), timeout=TIMEOUT_S)
        return b""


def scrubbed(request: Any) -> Any:
    """The same spans with what `SAID` names and nothing else that a caller wrote."""
    for part in request.resource_spans:
        for span in (span for scope in part.scope_spans for span in scope.spans):
            said = [a for a in span.attributes if a.key in SAID]
            for attribute in said:
                if attribute.key == "http.url":
                    attribute.value.string_value = _path(attribute.value.string_value)
            del span.attributes[:], span.events[:], span.links[:]
            span.attributes.extend(said)
            span.name = "gateway"
            span.trace_state = span.status.message = ""
    return request


def _path(url: str) -> str:
    return "/" + url.partition("?")[0].partition("#")[0].partition("://")[2].partition("/")[2]
