"""How many calls get in, of all callers and of each. Separate, because who counts as one caller is a decision
of its own: whoever a token names, and without a token whoever has an address."""

from typing import Any

from gateway.spec import NodeSpec

CLAIMS = "jwt"
"""Where the filter for tokens leaves what a verified one claims."""

_UNCHECKED = 4
_CALLERS_KNOWN = 10_000
_ADDRESS = {"masked_remote_address": {"v6_prefix_mask_len": 64}}
"""A key in memory, written nowhere. Of IPv6 the first half: the other is the caller's to choose."""


def before_tokens(spec: NodeSpec) -> dict[str, Any]:
    """So many of one address that a signature can be checked for each; only a flood is more."""
    bucket = _bucket(_UNCHECKED * spec.calls_per_second)
    return {
        **_limit("flood", bucket),
        "rate_limits": [{"actions": [_ADDRESS]}],
        "descriptors": [{"entries": [{"key": "masked_remote_address"}], "token_bucket": bucket}],
        "max_dynamic_descriptors": _CALLERS_KNOWN,
        "always_consume_default_token_bucket": False,
    }


def after_tokens(spec: NodeSpec) -> dict[str, Any]:
    """A bucket for each caller, and one for all. A call that is refused for the first takes nothing from
    the second, or one busy caller would still starve the others."""
    share = spec.calls_per_caller or max(1, spec.calls_per_second // 4)
    return {
        **_limit("calls", _bucket(spec.calls_per_second)),
        "rate_limits": [{"actions": _named_by_token()}, {"actions": _without_token()}],
        "descriptors": [
            {"entries": [{"key": key} for key in keys], "token_bucket": _bucket(share)}
            for keys in (("iss", "sub"), ("without", "masked_remote_address"))
        ],
        "max_dynamic_descriptors": _CALLERS_KNOWN,
    }


def _named_by_token() -> list[dict[str, Any]]:
    """None when there was no token, because then there is no issuer either."""

    def claim(name: str, **absent: str) -> dict[str, Any]:
        path = [{"key": CLAIMS}, {"key": name}]
        return {
            "metadata": {
                "descriptor_key": name,
                "metadata_key": {"key": "envoy.filters.http.jwt_authn", "path": path},
                **absent,
            }
        }

    return [claim("iss"), claim("sub", default_value="-")]


def _without_token() -> list[dict[str, Any]]:
    """Whatever the filter for tokens does not look at."""
    other = {
        "name": "authorization",
        "string_match": {"prefix": "Bearer "},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    match = {"descriptor_key": "without", "descriptor_value": "token", "headers": [other]}
    return [{"header_value_match": match}, _ADDRESS]


def _limit(name: str, bucket: dict[str, Any]) -> dict[str, Any]:
    always = {"default_value": {"numerator": 100}}
    return {
        "stat_prefix": name,
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limited_as_resource_exhausted": True,
        "enable_retry_after_header": True,
    }


def _bucket(calls: int) -> dict[str, Any]:
    return {"max_tokens": calls, "tokens_per_fill": calls, "fill_interval": "1s"}
