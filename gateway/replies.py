"""Envoy's own answers in the form of the services' answers: `google.rpc.Status` as JSON for JSON
callers, the right status code for gRPC callers. Separate, because what a refusal may promise (UNAVAILABLE:
certainly not done) is a rule of the mesh and not of a proxy."""

from typing import Any

from google.rpc import code_pb2

JSON_BODY_LIMIT = 1024 * 1024
"""Bytes of a JSON request."""

_ENVOYS_WORDS = "%LOCAL_REPLY_BODY%"
_BROKEN_OFF = ("UC", "UR")
_MAYBE_DONE = "It may have been done; repeating it with the same request_id is safe."

_BY_STATUS: tuple[tuple[int, int, str], ...] = (
    (400, code_pb2.INVALID_ARGUMENT, _ENVOYS_WORDS),
    (401, code_pb2.UNAUTHENTICATED, _ENVOYS_WORDS),
    (404, code_pb2.NOT_FOUND, "There is nothing at this path for this method."),
    (405, code_pb2.UNIMPLEMENTED, "There is nothing at this path for this method."),
    (408, code_pb2.DEADLINE_EXCEEDED, f"The call took too long. {_MAYBE_DONE}"),
    (413, code_pb2.INVALID_ARGUMENT, f"The body is too large: at most {JSON_BODY_LIMIT} bytes."),
    (429, code_pb2.RESOURCE_EXHAUSTED, "Too many calls at once; nothing was done. Try again in a second."),
    (431, code_pb2.INVALID_ARGUMENT, "The headers are too large."),
    (503, code_pb2.UNAVAILABLE, "The service is away; nothing was done. Try again shortly."),
    (504, code_pb2.DEADLINE_EXCEEDED, f"The call took too long. {_MAYBE_DONE}"),
)


def mappers() -> list[dict[str, Any]]:
    """Mappers of `local_reply_config`; the first that fits is used. A connection that broke off after the
    request had gone out is UNKNOWN, because Envoy's own 503 would promise that nothing was done."""
    json = _for_json()
    return [
        _mapper([_flags(_BROKEN_OFF), json], code_pb2.UNKNOWN, f"The service broke off. {_MAYBE_DONE}", 500),
        _grpc([_flags(_BROKEN_OFF)], code_pb2.UNKNOWN),
        # Envoy says 403 of a token for another audience, and at the office where no certificate is shown.
        _mapper([_status("EQ", 403), json], code_pb2.UNAUTHENTICATED, _ENVOYS_WORDS, 401),
        _grpc([_status("EQ", 403)], code_pb2.UNAUTHENTICATED),
        *(_mapper([_status("EQ", status), json], code, text) for status, code, text in _BY_STATUS),
        _mapper([_status("GE", 500), json], code_pb2.INTERNAL, "The gateway failed."),
        _mapper([_status("GE", 400), json], code_pb2.INVALID_ARGUMENT, _ENVOYS_WORDS),
    ]


def _mapper(filters: list[dict[str, Any]], code: int, message: str, status: int = 0) -> dict[str, Any]:
    return {
        "filter": {"and_filter": {"filters": filters}},
        **({"status_code": status} if status else {}),
        "body_format_override": {
            "json_format": {"code": code, "message": message, "details": []},
            "content_type": "application/json",
        },
    }


def _grpc(filters: list[dict[str, Any]], code: int) -> dict[str, Any]:
    is_grpc = _header("content-type", {"string_match": {"prefix": "application/grpc"}})
    header = {"header": {"key": "grpc-status", "value": str(code)}}
    return {
        "filter": {"and_filter": {"filters": [*filters, is_grpc]}},
        "headers_to_add": [{**header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}],
    }


def _for_json() -> dict[str, Any]:
    """Whether the caller speaks JSON: not gRPC, or made gRPC by the transcoder, which leaves a trace."""
    other = {
        "string_match": {"prefix": "application/grpc"},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    filters = [_header("content-type", other), _header("x-envoy-original-path", {"present_match": True})]
    return {"or_filter": {"filters": filters}}


def _header(name: str, match: dict[str, Any]) -> dict[str, Any]:
    return {"header_filter": {"header": {"name": name, **match}}}


def _flags(flags: tuple[str, ...]) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": list(flags)}}


def _status(op: str, status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": "gateway.reply_status"}
    return {"status_code_filter": {"comparison": {"op": op, "value": value}}}
