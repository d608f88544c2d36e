"""Envoy's own spans. Separate, because they say more of a caller than may leave the node: they go to the
node's process, which passes on what a list allows (`mesh.spans`)."""

from typing import Any

from gateway import published
from gateway.spec import NodeSpec

_SAMPLERS = "type.googleapis.com/envoy.extensions.tracers.opentelemetry.samplers.v3"

FLUSH = {"tracing": {"opentelemetry": {"min_flush_spans": 200, "flush_interval_ms": 1000}}}
"""Runtime: without it Envoy sends after every fifth span."""


def tracing(spec: NodeSpec) -> dict[str, Any]:
    """The `tracing` of a connection manager; nothing when the node sends no traces."""
    if spec.trace_ratio is None:
        return {}
    return {
        "tracing": {
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "service_name": "village-mesh-gateway",
                    "grpc_service": {"envoy_grpc": {"cluster_name": published.NODE}, "timeout": "5s"},
                    "sampler": _sampler(spec.trace_ratio),
                },
            }
        }
    }


def _sampler(ratio: float) -> dict[str, Any]:
    """A caller who says whether to sample is obeyed; of other calls a share is sampled."""
    percentage = {"numerator": round(ratio * 1_000_000), "denominator": "MILLION"}
    share = _sampling("trace_id_ratio_based", "TraceIdRatioBased", sampling_percentage=percentage)
    return _sampling("parent_based", "ParentBased", wrapped_sampler=share)


def _sampling(name: str, kind: str, **settings: object) -> dict[str, Any]:
    return {
        "name": f"envoy.tracers.opentelemetry.samplers.{name}",
        "typed_config": {"@type": f"{_SAMPLERS}.{kind}SamplerConfig", **settings},
    }
