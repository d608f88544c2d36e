"""The audit trail (审计): one row per changed record, in the commit. Separate, because what proves must
not depend on what it proves. No personal data: residents stand in it by a sealed reference."""

import hashlib
from typing import Any

import orjson

COLUMNS = (
    "time", "region", "actor", "role", "organisation", "method", "name", "before_digest", "after_digest",
    "result", "request_id", "trace",
)  # fmt: skip


def digest(row: dict[str, Any], moment: str) -> str:
    """SHA-256, in hexadecimal, over the row's columns in their fixed order; `moment` is its time as
    RFC 3339 with microseconds."""
    values = [moment if column == "time" else row[column] for column in COLUMNS]
    return hashlib.sha256(orjson.dumps(values)).hexdigest()
