"""Envoy's listener (LDS): the filters a call passes and the routes it takes. Separate from the rest of the
configuration, because this is what faces the public."""

import base64
from typing import Any

from gateway import lines, published, replies, shares, tracing
from gateway.spec import NodeSpec

_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_JSON_LIMIT = {"max_request_bytes": replies.JSON_BODY_LIMIT}
_NOT_SENT = "connect-failure,refused-stream,reset-before-request"
_READ_RETRIES = 2


def listener(
    spec: NodeSpec, services: tuple[published.Service, ...], descriptor_set: bytes
) -> dict[str, Any]:
    """The one listener, for gRPC, gRPC-Web and JSON."""
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "public",
        "address": {"socket_address": {"address": spec.address, "port_value": spec.port}},
        "per_connection_buffer_limit_bytes": 32768,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(spec, services, descriptor_set),
                    }
                ]
            }
        ],
    }


def _connection_manager(
    spec: NodeSpec, services: tuple[published.Service, ...], descriptor_set: bytes
) -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "AUTO",
        "use_remote_address": True,
        "xff_num_trusted_hops": 0,
        "internal_address_config": {"unix_sockets": False},
        "server_header_transformation": "PASS_THROUGH",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "generate_request_id": True,
        "request_headers_timeout": "10s",
        "request_timeout": "300s",
        "stream_idle_timeout": "300s",
        "delayed_close_timeout": "1s",
        "drain_timeout": "10s",
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            "idle_timeout": "900s",
            "max_connection_duration": "3600s",
            "max_headers_count": 64,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
        "access_log": [_access_log(spec.access_log)],
        **tracing.tracing(spec),
        "early_header_mutation_extensions": [_strip()],
        "local_reply_config": {"mappers": replies.mappers()},
        "http_filters": _filters(spec, services, descriptor_set),
        "route_config": {"name": "public", "virtual_hosts": [_virtual_host(spec, services)]},
    }


def _access_log(path: str) -> dict[str, Any]:
    """One line per call, without addresses, user agents or query strings: no personal data."""
    line = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "http_method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
        "flags": "%RESPONSE_FLAGS%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "ms": "%DURATION%",
        "cluster": "%UPSTREAM_CLUSTER%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "trace_id": "%TRACE_ID%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": line},
        },
    }


def _strip() -> dict[str, Any]:
    """Removes what only this gateway may say. `x-envoy-…` would let a caller set retries and timeouts, or
    pass for a transcoded call. And what HTTP allows in the name of a header and gRPC does not, which would be
    answered as a fault of ours."""
    prefixes = ("x-village-node", "x-jwt-", "x-envoy-")
    foreign = {"safe_regex": {"regex": "[^:0-9a-z_.-].*|[^:].*[^0-9a-z_.-].*"}}
    matchers = [*({"prefix": prefix} for prefix in prefixes), foreign]
    return {
        "name": "strip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3"
            ".HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers],
        },
    }


def _filters(
    spec: NodeSpec, services: tuple[published.Service, ...], descriptor_set: bytes
) -> list[dict[str, Any]]:
    return [
        _filter("cors", "cors.v3.Cors"),
        _filter("flood", "local_ratelimit.v3.LocalRateLimit", **shares.before_tokens(spec)),
        _filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", **_tokens(spec)),
        _filter("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", **shares.after_tokens(spec)),
        # The transcoder limits what it holds back, not what passes through it.
        {**_filter("buffer", "buffer.v3.Buffer", **_JSON_LIMIT), "disabled": True},
        _filter("grpc_web", "grpc_web.v3.GrpcWeb"),
        _filter(
            "grpc_json_transcoder",
            "grpc_json_transcoder.v3.GrpcJsonTranscoder",
            **_transcoder(services, descriptor_set),
        ),
        _filter("grpc_stats", "grpc_stats.v3.FilterConfig", emit_filter_state=True),
        _filter("router", "router.v3.Router", suppress_envoy_headers=True),
    ]


def _filter(name: str, kind: str, **settings: object) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_HTTP}.{kind}", **settings},
    }


def _tokens(spec: NodeSpec) -> dict[str, Any]:
    """A bad token is refused here. A missing one passes: the service knows which methods are public, and
    refuses by default."""
    if not spec.issuers:
        raise ValueError("a gateway needs at least one issuer of tokens")
    providers = {f"issuer-{number}": _provider(spec, number) for number in range(len(spec.issuers))}
    # In a mesh, tokens of issuers elsewhere pass too: the services know them from the directory.
    rest: dict[str, Any] = {"allow_missing_or_failed": {}} if spec.in_mesh else {"allow_missing": {}}
    any_of = [*({"provider_name": name} for name in providers), rest]
    return {
        "providers": providers,
        "rules": [
            {"match": {"path": "/healthz"}},
            {"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": any_of}}},
        ],
    }


def _provider(spec: NodeSpec, number: int) -> dict[str, Any]:
    issuer = spec.issuers[number]
    return {
        "issuer": issuer.issuer,
        "audiences": [spec.audience],
        # Inside, because Envoy reads a file of keys once and never again, `watched_directory` or not.
        "local_jwks": {"inline_string": issuer.jwks.read_text()},
        # Only here: by default Envoy also takes a token from the URL, where it ends up in logs.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "forward": True,
        "payload_in_metadata": shares.CLAIMS,
        "require_expiration": True,
        "clock_skew_seconds": 30,
        "jwt_cache_config": {"jwt_cache_size": 1000},
    }


def _transcoder(services: tuple[published.Service, ...], descriptor_set: bytes) -> dict[str, Any]:
    """The contracts travel inside, so that a new version of them is one atomic reload."""
    return {
        "proto_descriptor_bin": base64.b64encode(published.without_comments(descriptor_set)).decode(),
        "services": [service.full_name for service in services if service.transcoded],
        "convert_grpc_status": True,
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        "print_options": {"always_print_primitive_fields": True, "stream_newline_delimited": True},
        "max_request_body_size": replies.JSON_BODY_LIMIT,
        "max_response_body_size": 4 * 1024 * 1024,
        "query_param_unescape_plus": True,
        "url_unescape_spec": "ALL_CHARACTERS_EXCEPT_RESERVED",
    }


def _virtual_host(spec: NodeSpec, services: tuple[published.Service, ...]) -> dict[str, Any]:
    known = published.read(spec.descriptor_set)
    away = [domain for domain in published.domains(known) if domain not in spec.endpoints]
    elsewhere = tuple(s for s in published.services(known, away) if s.process in away)
    return {
        "name": "public",
        "domains": ["*"],
        "retry_policy": {"retry_on": _NOT_SENT, "num_retries": _READ_RETRIES},
        **({"typed_per_filter_config": _cors(spec)} if spec.cors_origins else {}),
        "routes": [
            _alive(),
            *(route for service in services for route in _routes(spec, service)),
            # A call in JSON is routed twice: here, for CORS, and once more when the transcoder has made
            # gRPC of it. A direct response or none at all would leave browsers without CORS headers.
            *(
                _stream({"safe_regex": {"regex": url}}, service.process)
                for service in services
                for url in sorted(service.stream_paths)
            ),
            *(_json(spec, f"/{domain}/v1/", domain) for domain in sorted(spec.endpoints)),
            _json(spec, "/mesh/v1/", published.NODE),
            *lines.fallback(spec, elsewhere),
            {"match": {"prefix": "/"}, "direct_response": {"status": 404}},
        ],
    }


def _alive() -> dict[str, Any]:
    """Answers 200 as long as Envoy runs; without the transcoder, which knows no such path."""
    transcoder = "envoy.filters.http.grpc_json_transcoder"
    off = {"@type": f"{_HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder", "proto_descriptor_bin": ""}
    return {
        "match": {"path": "/healthz"},
        "direct_response": {"status": 200},
        "typed_per_filter_config": {transcoder: off},
    }


def _cors(spec: NodeSpec) -> dict[str, Any]:
    return {
        "envoy.filters.http.cors": {
            "@type": f"{_HTTP}.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": origin} for origin in spec.cors_origins],
            "allow_methods": "GET, POST, PATCH, PUT, DELETE, OPTIONS",
            "allow_headers": "authorization,content-type,grpc-timeout,traceparent,x-grpc-web,x-user-agent",
            "expose_headers": "grpc-status,grpc-message,grpc-status-details-bin,retry-after,x-request-id",
            "max_age": "600",
        }
    }


def _routes(spec: NodeSpec, service: published.Service) -> list[dict[str, Any]]:
    """Reads and streams one by one, then the rest of the service."""
    path = f"/{service.full_name}/"
    retry = {"retry_policy": {"retry_on": f"{_NOT_SENT},unavailable", "num_retries": _READ_RETRIES}}
    return [
        *(_route(spec, {"path": path + name}, service.process, **retry) for name in sorted(service.reads)),
        *(_stream({"path": path + name}, service.process) for name in sorted(service.streams)),
        _route(spec, {"prefix": path}, service.process),
    ]


def _route(spec: NodeSpec, match: dict[str, Any], cluster: str, **action: object) -> dict[str, Any]:
    """Equal limits, because the upstream learns its deadline from the second, and Envoy obeys the first."""
    limits = {"max_stream_duration": spec.deadline, "grpc_timeout_header_max": spec.deadline}
    return {
        "match": match,
        "route": {"cluster": cluster, "timeout": spec.deadline, "max_stream_duration": limits, **action},
    }


def _json(spec: NodeSpec, prefix: str, cluster: str) -> dict[str, Any]:
    limit = {"@type": f"{_HTTP}.buffer.v3.BufferPerRoute", "buffer": _JSON_LIMIT}
    return {
        **_route(spec, {"prefix": prefix}, cluster),
        "typed_per_filter_config": {"envoy.filters.http.buffer": limit},
    }


def _stream(match: dict[str, Any], cluster: str) -> dict[str, Any]:
    return {"match": match, "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": "3600s"}}
