"""A node's lines to others, as Envoy carries them: at the province the office, where nodes call over TLS;
elsewhere where this node's own programs reach the province. Separate from the public listener, whose
callers are people."""

import copy
from typing import Any

from gateway import published
from gateway.spec import NodeSpec, Office, Province

PROVINCE, LINE, LEAVES = "province", "province-line", "leaves"
"""Clusters: the province for calls, for the broker's line, and, at the province, its broker."""
LEAF_PATH = "/leafnode"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_MANAGER = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
_STRANGERS = [
    {"exact": "/village.mesh.v1.EnrolmentService/EnrolNode"},
    {"exact": "/village.mesh.v1.DirectoryService/GetAuthority"},
    {"exact": "/mesh/v1/authority"},
    {"exact": "/healthz"},
    {"safe_regex": {"regex": "/mesh/v1/regions/[0-9]{6}/enrolments"}},
]
"""What somebody without a certificate may reach at the office."""


def office(spec: NodeSpec, public: dict[str, Any]) -> dict[str, Any]:
    """The office's listener, made from the public one: the same services, for nodes with a certificate.
    Tokens are looked at by the services, which trust no gateway, this one included."""
    assert spec.office is not None
    manager = copy.deepcopy(public["filter_chains"][0]["filters"][0]["typed_config"])
    manager["stat_prefix"] = "office"
    manager["common_http_protocol_options"].pop("max_connection_duration", None)  # lines last
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    manager["set_current_client_cert_details"] = {"dns": True}
    mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
    manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"] = [
        m
        for m in mutations
        if not m["remove_on_match"]["key_matcher"].get("prefix", "").startswith("x-village-")
    ]
    for_people = ("cors", "jwt_authn", "local_ratelimit")
    manager["http_filters"] = [
        _known_nodes(),
        *(f for f in manager["http_filters"] if f["name"].rpartition(".")[2] not in for_people),
    ]
    (host,) = manager["route_config"]["virtual_hosts"]
    host.pop("typed_per_filter_config", None)
    host.pop("rate_limits", None)
    host["routes"].insert(0, {**_upgraded(LEAVES), "typed_per_filter_config": _without_transcoder()})
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "office",
        "address": _socket(f"{spec.office.address}:{spec.office.port}"),
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [{**_manager(manager), "transport_socket": _server_side(spec.office)}],
    }


def line(province: Province) -> dict[str, Any]:
    """The listener, for this node's own programs, behind which the province is."""
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "line",
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",
        "http_filters": [_router()],
        "route_config": {
            "name": "line",
            "virtual_hosts": [{"name": "line", "domains": ["*"], "routes": [_upgraded(LINE), _calls()]}],
        },
    }
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "line",
        "address": _socket(province.line),
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [_manager(manager)],
    }


def clusters(spec: NodeSpec) -> list[dict[str, Any]]:
    """What the lines lead to."""
    if spec.office is not None:
        return [_cluster(LEAVES, spec.office.leaves, "http_protocol_options", {})]
    if spec.province is None:
        return []
    h2 = {
        "max_concurrent_streams": 100,
        "initial_stream_window_size": 262144,
        "initial_connection_window_size": 1048576,
        "connection_keepalive": {"interval": "10s", "timeout": "5s"},
    }
    calls = _cluster(PROVINCE, spec.province.address, "http2_protocol_options", h2)
    lines = _cluster(LINE, spec.province.address, "http_protocol_options", {})
    calls["transport_socket"] = _client_side(spec.province, "h2")
    lines["transport_socket"] = _client_side(spec.province, "http/1.1")
    return [calls, lines]


def fallback(spec: NodeSpec, services: tuple[published.Service, ...]) -> list[dict[str, Any]]:
    """Routes of what this node does not run: to the province, which also makes gRPC of its JSON. `services`:
    those of the other domains that are known here; a domain that only the province knows goes there too."""
    if spec.province is None:
        return []
    limits = {"max_stream_duration": spec.deadline, "grpc_timeout_header_max": spec.deadline}
    unary = {"cluster": PROVINCE, "timeout": spec.deadline, "max_stream_duration": limits}
    stream = {"cluster": PROVINCE, "timeout": "0s", "idle_timeout": "3600s"}
    matches = [
        *(({"path": f"/{s.full_name}/{name}"}, stream) for s in services for name in sorted(s.streams)),
        *(({"safe_regex": {"regex": url}}, stream) for s in services for url in sorted(s.stream_paths)),
        ({"safe_regex": {"regex": "/village\\.[a-z]+\\.v[0-9]+\\..*"}}, unary),
        ({"safe_regex": {"regex": "/[a-z]+/v[0-9]+/.*"}}, unary),
    ]
    off = _without_transcoder()
    return [{"match": m, "route": r, "typed_per_filter_config": off} for m, r in matches]


def _without_transcoder() -> dict[str, Any]:
    kind = f"{_HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder"
    return {"envoy.filters.http.grpc_json_transcoder": {"@type": kind, "proto_descriptor_bin": ""}}


def _known_nodes() -> dict[str, Any]:
    """Lets pass who has shown a certificate of the authority's, and strangers to what is for strangers."""
    named = {"authenticated": {"principal_name": {"suffix": ".node.village.invalid"}}}
    strangers = [{"url_path": {"path": path}} for path in _STRANGERS]
    policies = {
        "nodes": {"permissions": [{"any": True}], "principals": [named]},
        "strangers": {"permissions": [{"or_rules": {"rules": strangers}}], "principals": [{"any": True}]},
    }
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": f"{_HTTP}.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": policies},
        },
    }


def _upgraded(cluster: str) -> dict[str, Any]:
    return {
        "match": {"path": LEAF_PATH},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "idle_timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "websocket"}],
        },
    }


def _calls() -> dict[str, Any]:
    return {"match": {"prefix": "/"}, "route": {"cluster": PROVINCE, "timeout": "0s", "idle_timeout": "60s"}}


def _manager(manager: dict[str, Any]) -> dict[str, Any]:
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}


def _router() -> dict[str, Any]:
    kind = f"{_HTTP}.router.v3.Router"
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": kind, "suppress_envoy_headers": True},
    }


def _server_side(part: Office) -> dict[str, Any]:
    common = _common(part, ["h2", "http/1.1"])
    common["validation_context"] = {"trusted_ca": {"filename": part.authority}}
    context = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "common_tls_context": common,
        "require_client_certificate": False,
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _client_side(part: Province, protocol: str) -> dict[str, Any]:
    common = _common(part, [protocol])
    common["validation_context"] = {
        "trusted_ca": {"filename": part.authority},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": part.name}}],
    }
    context = {"@type": f"{_TLS}.UpstreamTlsContext", "common_tls_context": common, "sni": part.name}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _common(part: Office | Province, protocols: list[str]) -> dict[str, Any]:
    """Certificates are renewed every day while Envoy runs: it watches their folder."""
    folder = part.certificate.rpartition("/")[0] or "."
    pair = {
        "certificate_chain": {"filename": part.certificate},
        "private_key": {"filename": part.key},
        "watched_directory": {"path": folder},
    }
    return {
        "alpn_protocols": protocols,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [pair],
    }


def _cluster(name: str, endpoint: str, protocol: str, settings: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": 32768,
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {protocol: settings},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(endpoint)}}]}],
        },
    }


def _socket(endpoint: str) -> dict[str, Any]:
    host, _, port = endpoint.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}
