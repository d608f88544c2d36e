"""Traces and logs. Separate, so that what is written about a call is decided in one place: JSON lines
with the trace's id and no personal data."""

import contextlib
import datetime
import json
import logging
import random
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.sdk.trace import TracerProvider, id_generator
from opentelemetry.trace import Link, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_ids = id_generator.RandomIdGenerator()
_propagator = TraceContextTextMapPropagator()
_here = threading.local()
_ratio: list[float] = [0.0]
_tracers: list[Any] = []
"""The tracer, when spans are sent somewhere."""


def export(endpoint: str, ratio: float, domains: Sequence[str]) -> TracerProvider:
    """Sends spans of that share of traces, and of every trace that a caller sampled, to an OTLP endpoint."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource({"service.name": "village-mesh", "village.domains": ",".join(domains)})
    provider = TracerProvider(resource=named)  # what comes to it is to be sent: `Span` draws
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=True)))
    _tracers[:] = [provider.get_tracer("village")]
    _ratio[:] = [ratio]
    return provider


class Span:
    """A call as it is traced; `traceparent` is passed on, whether or not anything is sent."""

    def __init__(self, name: str, incoming: str, links: Sequence[str] = ()) -> None:
        self._span: Any = None
        told = [t for t in (incoming, *links) if t]
        drawn = any(t.endswith("-01") for t in told) if told else random.random() < _ratio[0]  # noqa: S311
        if not _tracers or not drawn:
            self.traceparent = traceparent(incoming)
            return
        context = _propagator.extract({"traceparent": incoming}) if incoming else None
        linked = [Link(_context(one)) for one in links]
        span = _tracers[0].start_span(name, context, kind=SpanKind.SERVER, links=linked)
        found = span.get_span_context()
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        if span.is_recording():
            self._span = _here.span = span

    def end(self, code: str) -> None:
        """`code`: OK, or the reason of a refusal."""
        if self._span is not None:
            _here.span = None
            self._span.set_attribute("village.code", code)
            if code == "INTERNAL":
                self._span.set_status(StatusCode.ERROR)
            self._span.end()


def _context(parent: str) -> Any:
    return get_current_span(_propagator.extract({"traceparent": parent})).get_span_context()


def part(name: str, parent: str = "") -> contextlib.AbstractContextManager[object]:
    """A part of what this thread traces, or of the trace of `parent`: nothing when that is not sampled."""
    above: Any = getattr(_here, "span", None)
    if not _tracers or (above is None and not parent.endswith("-01")):
        return _NOTHING
    context = _propagator.extract({"traceparent": parent}) if parent else set_span_in_context(above)
    found: contextlib.AbstractContextManager[object] = _tracers[0].start_as_current_span(name, context)
    return found


_NOTHING = contextlib.nullcontext()


def happened(name: str, parents: Iterable[str]) -> None:
    """An instant in each of these traces that is sampled."""
    for parent in parents if _tracers else ():
        with part(name, parent):
            pass


def traceparent(incoming: str) -> str:
    """The W3C trace context of a call: a new span of the caller's trace, or of a new one."""
    if not incoming:
        drawn = f"{random.getrandbits(192):048x}"
        return f"00-{drawn[:32]}-{drawn[32:]}-00"
    parent = get_current_span(_propagator.extract({"traceparent": incoming})).get_span_context()
    trace, flags = parent.trace_id or _ids.generate_trace_id(), parent.trace_flags
    return f"00-{trace:032x}-{_ids.generate_span_id():016x}-{flags:02x}"


def trace_id(parent: str) -> str:
    """The trace's id in a traceparent: 32 hexadecimal digits."""
    return parent.split("-")[1] if parent.count("-") == 3 else ""


class JsonLines(logging.Formatter):
    """A log record as one JSON object. What is passed as `extra={"about": {…}}` stands beside the text."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds"), "level": record.levelname,
            "logger": record.name, "text": record.getMessage(), **getattr(record, "about", {}),
        }  # fmt: skip
        if record.exc_info:
            line["fault"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Sends logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
