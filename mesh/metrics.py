"""What a process tells Prometheus of itself: calls by method and outcome, the pool, the relay, timers, flows
and reactions. Separate, so that names stand in one place, against which dashboards and alerts are checked."""

from collections.abc import Callable

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

REGISTRY = prometheus_client.CollectorRegistry()
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)

calls = Counter("village_calls", "Calls answered.", ("domain", "method", "code"), registry=REGISTRY)
seconds = Histogram(
    "village_call_seconds", "How long calls took.", ("domain", "method"), registry=REGISTRY, buckets=_BUCKETS
)
in_hand = Gauge("village_calls_in_hand", "Calls worked on and waiting.", registry=REGISTRY)
backlog = Gauge("village_backlog", "Committed events that the broker has not confirmed.", ("domain",),
                registry=REGISTRY)  # fmt: skip
ready = Gauge("village_ready", "1 when the domain's database answers and takes writes.", ("domain",),
              registry=REGISTRY)  # fmt: skip
published = Counter("village_published", "Events that the broker confirmed.", ("domain",), registry=REGISTRY)
rung = Counter("village_timers_rung", "Limits that were missed.", ("domain",), registry=REGISTRY)
steps = Counter("village_steps", "Steps of life cycles.", ("resource", "action"), registry=REGISTRY)
reacted = Counter("village_reactions", "Events acted on, tried again or given up.", ("reaction", "result"),
                  registry=REGISTRY)  # fmt: skip
voided = Counter("village_voided", "Events that could not be published.", ("domain",), registry=REGISTRY)
lag = Gauge("village_reaction_lag", "Events that wait to be acted on.", ("reaction",), registry=REGISTRY)
sealed = Counter("village_sealed_rows", "Rows of the audit trail sealed.", ("domain",), registry=REGISTRY)
copied = Counter("village_copied_rows", "Rows of other nodes' logs copied.", ("domain",), registry=REGISTRY)
refused_rows = Counter("village_refused_rows", "Rows of other nodes' logs refused.", ("domain",),
                       registry=REGISTRY)  # fmt: skip
copy_age = Gauge("village_copy_age_seconds", "How old the copy of a node's log is.", ("domain", "region"),
                 registry=REGISTRY)  # fmt: skip
behind = Gauge("village_copy_behind", "Rows of a node's log that are not copied yet.", ("domain", "region"),
               registry=REGISTRY)  # fmt: skip


def names() -> set[str]:
    """The names under which samples appear."""
    found: set[str] = set()
    for family in REGISTRY.collect():
        found.update(family.name + suffix for suffix in _SUFFIXES.get(family.type, ("",)))
    return found


def serve(address: str, pool: Callable[[], int]) -> None:
    """Serves `/metrics` on HOST:PORT."""
    host, _, port = address.rpartition(":")
    in_hand.set_function(pool)
    prometheus_client.start_http_server(int(port), host, registry=REGISTRY)
