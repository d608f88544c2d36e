"""Pages of resources: what the caller may see, what he asks for, in a stable order, one page at a time.
Separate from `filters`, which only reads text."""

import base64
import binascii
import hmac
import json
from typing import Any

import sqlalchemy as sa

from mesh import contract, errors, filters, identity, regions, resources
from mesh.store import Store
from village.options.v1 import options_pb2

DEFAULT_SIZE, MAXIMUM_SIZE = 50, 500


def page_size(request: Any) -> int:
    """0 means the default; more than the maximum means the maximum."""
    return min(request.page_size or DEFAULT_SIZE, MAXIMUM_SIZE)


def page(
    store: Store,
    codec: resources.Codec,
    request: Any,
    *,
    method: contract.Method,
    caller: identity.Caller,
    reference: str,
) -> tuple[list[Any], str]:
    """One page and the token of the next, empty on the last."""
    table, size = codec.table, page_size(request)
    keys: list[tuple[Any, bool]] = []
    for part in filters.order(request.order_by, codec.resource):
        column: Any = table.c[part.field.name]
        if column.nullable:  # absent ones last, whichever way the rest goes
            keys.append((sa.case((column.is_(None), 1), else_=0), False))
            column = sa.func.coalesce(column, store.instant(resources.EPOCH))
        keys.append((column, part.descending))
    keys.append((table.c.name, False))
    statement = sa.select(*codec.columns, *(key.label(f"key{i}") for i, (key, _) in enumerate(keys)))
    statement = statement.where(
        *within(codec, resources.region_in(request.parent)), visible(codec, method, caller, reference)
    )
    condition = filters.condition(request.filter, codec)
    if condition is not None:
        statement = statement.where(condition)
    if request.page_token:
        statement = statement.where(_after(keys, _read(store, method, request)))
    statement = statement.order_by(*(key.desc() if down else key for key, down in keys)).limit(size + 1)
    rows = store.database.select(statement)
    found = [codec.decode(row[: len(codec.columns)]).message for row in rows[:size]]
    more = len(rows) > size
    last = list(rows[size - 1][len(codec.columns) :]) if more else []
    return found, token(store, method, request, last) if more else ""


def within(codec: resources.Codec, code: str) -> list[Any]:
    """Conditions for the subtree of a region or division."""
    if len(code) > 6:  # what has no division belongs to the whole region
        division = codec.resource.division
        return [codec.table.c[division].between(*regions.bounds(code)) if division else sa.false()]
    low, high = regions.bounds(regions.region_of(code))
    column = codec.table.c.region
    return [column == low[:6] if low[:6] == high[:6] else column.between(low[:6], high[:6])]


def visible(codec: resources.Codec, method: contract.Method, caller: identity.Caller, reference: str) -> Any:
    """The condition for what the caller may see under the method's rules."""
    ways: list[Any] = []
    for rule in method.rules:
        if rule.scope == options_pb2.SCOPE_PUBLIC:
            return sa.true()
        if not rule.roles & caller.roles:
            continue
        if rule.scope == options_pb2.SCOPE_OWN_RECORDS:
            ways.append(codec.table.c.owner == reference)
        elif rule.scope == options_pb2.SCOPE_OWN_REGION:
            ways.append(
                sa.and_(
                    codec.table.c.region == regions.region_of(caller.region), *within(codec, caller.region)
                )
            )
        else:
            ways.append(sa.and_(*within(codec, caller.region)))
    return sa.or_(sa.false(), *ways)


def _after(keys: list[tuple[Any, bool]], last: list[Any]) -> Any:
    """Everything behind the last row of the page before."""
    ways = []
    for i, (key, down) in enumerate(keys):
        same = [k == v for (k, _), v in zip(keys[:i], last[:i], strict=True)]
        ways.append(sa.and_(*same, key < last[i] if down else key > last[i]))
    return sa.or_(*ways)


def _proof(store: Store, method: contract.Method, request: Any, values: list[Any]) -> str:
    """What binds a token to its query, everything of the request but the page, and to its values: keyed,
    so that nobody else makes one."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    query = method.path + bare.SerializeToString(deterministic=True).hex()
    return store.ring.index(query + json.dumps(values), region="", domain=store.domain)


def token(store: Store, method: contract.Method, request: Any, last: list[Any]) -> str:
    """An opaque token for what follows `last`."""
    values = [v if isinstance(v, int | float | str) else {"t": v.isoformat()} for v in last]
    raw = json.dumps([_proof(store, method, request, values), *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def _read(store: Store, method: contract.Method, request: Any) -> list[Any]:
    text = request.page_token
    try:
        proof, *values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        genuine = isinstance(proof, str) and hmac.compare_digest(
            proof.encode(), _proof(store, method, request, values).encode()
        )
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise errors.Invalid("page_token", "is not one that this method gave") from None
    if not genuine:
        raise errors.Invalid("page_token", "is not one that this query was given")
    return [resources.when(v["t"]) if isinstance(v, dict) else v for v in values]


def plain_token(store: Store, request: Any, method: contract.Method) -> int:
    """The number that a token of a list ordered by number holds; 0 without one."""
    if not request.page_token:
        return 0
    return int(_read(store, method, request)[0])
