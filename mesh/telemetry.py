"""Traces and logs. Separate, so that what is written about a call is decided in one place: JSON lines
with the trace's id and no personal data."""

import datetime
import json
import logging
import sys

from opentelemetry.sdk.trace import id_generator
from opentelemetry.trace import TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_ids = id_generator.RandomIdGenerator()
_propagator = TraceContextTextMapPropagator()


def traceparent(incoming: str) -> str:
    """The W3C trace context of a call: a new span of the caller's trace, or of a new one."""
    trace, flags = 0, TraceFlags(0)
    if incoming:
        parent = get_current_span(_propagator.extract({"traceparent": incoming})).get_span_context()
        trace, flags = parent.trace_id, parent.trace_flags
    return f"00-{trace or _ids.generate_trace_id():032x}-{_ids.generate_span_id():016x}-{flags:02x}"


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
