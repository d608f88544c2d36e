"""Pages of resources: what the caller may see, what he asks for, in a stable order, one page at a time.
Separate from `filters`, which only reads text."""

import base64
import binascii
import hmac
import json
from typing import Any

import sqlalchemy as sa

from mesh import contract, errors, filters, identity, regions, resources, telemetry
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
    """One page and the token of the next, empty on the last. What has no value in the field that is ordered
    by first comes last, whichever way; it is asked for apart, so that an index serves both parts."""
    table, size, region = codec.table, page_size(request), resources.region_in(request.parent)
    keys = _keys(store, table, filters.order(request.order_by, codec.resource))
    statement = sa.select(*codec.columns, *(key.label(f"key{i}") for i, (key, _) in enumerate(keys)))
    statement = statement.where(visible(codec, method, caller, reference, region))
    condition = filters.condition(request.filter, codec, region)
    if condition is not None:
        statement = statement.where(condition)
    last = read(store, method, request) if request.page_token else []
    rows: list[Any] = []
    for asked, order in _parts(statement, keys, last):
        ordered = asked.order_by(*(key.desc() if down else key for key, down in order))
        with telemetry.part("read"):
            rows += store.database.select(ordered.limit(size + 1 - len(rows)))
        if len(rows) > size:
            break
    found = [codec.decode(row[: len(codec.columns)]).message for row in rows[:size]]
    more = len(rows) > size
    last = list(rows[size - 1][len(codec.columns) :]) if more else []
    return found, token(store, method, request, last) if more else ""


Keys = list[tuple[Any, bool]]
"""What a list is ordered by: columns, each with whether it descends. The name ends it."""


def _keys(store: Store, table: sa.Table, order: list[filters.Order]) -> Keys:
    keys: Keys = []
    for part in order:
        column: Any = table.c[part.field.name]
        if column.nullable and keys:
            keys.append((sa.case((column.is_(None), 1), else_=0), False))
            column = sa.func.coalesce(column, store.instant(resources.EPOCH))
        keys.append((column, part.descending))
    return [*keys, (table.c.name, False)]


def _parts(statement: Any, keys: Keys, last: list[Any]) -> list[tuple[Any, Keys]]:
    """The statements that one after the other give the list behind the row `last`, with the order of
    each."""
    first = keys[0][0]
    if not getattr(first, "nullable", False):
        return [(statement.where(_after(keys, last)) if last else statement, keys)]
    absent = statement.where(first.is_(None))
    if last and last[0] is None:
        return [(absent.where(_after(keys[1:], last[1:])), keys[1:])]
    present = statement.where(first.is_not(None))
    return [(present.where(_after(keys, last)) if last else present, keys), (absent, keys[1:])]


def visible(
    codec: resources.Codec, method: contract.Method, caller: identity.Caller, reference: str, code: str
) -> Any:
    """The condition for what the caller may see under the method's rules inside a region or division."""
    ways: list[Any] = []
    for rule in method.rules:
        if rule.scope == options_pb2.SCOPE_PUBLIC:
            return filters.within(codec, code)
        if not rule.roles & caller.roles:
            continue
        if rule.scope == options_pb2.SCOPE_OWN_RECORDS:
            ways.append(sa.and_(codec.table.c.owner == reference, filters.within(codec, code)))
            continue
        inside = regions.contains(caller.region, code)
        if not inside and not regions.contains(code, caller.region):
            continue
        # the smaller of the two places: one condition, so that its index is taken
        place = filters.within(codec, code if inside else caller.region)
        if rule.scope == options_pb2.SCOPE_OWN_REGION and caller.region.endswith("00"):
            place = sa.and_(place, codec.table.c.region == regions.region_of(caller.region))
        if rule.handling_unit:
            unit = codec.table.c[codec.resource.handling_unit]
            place = sa.and_(place, unit == caller.organisation, unit != "")
        ways.append(place)
    return sa.or_(*ways) if ways else sa.false()


def _after(keys: Keys, last: list[Any]) -> Any:
    """Everything behind the last row of the page before; the first comparison is what an index uses."""
    ways = []
    for i, (key, down) in enumerate(keys):
        same = [k == v for (k, _), v in zip(keys[:i], last[:i], strict=True)]
        ways.append(sa.and_(*same, key < last[i] if down else key > last[i]))
    first, down = keys[0]
    return sa.and_(first <= last[0] if down else first >= last[0], sa.or_(*ways))


def _proof(store: Store, method: contract.Method, request: Any, values: list[Any]) -> str:
    """What binds a token to its query, everything of the request but the page, and to its values: keyed,
    so that nobody else makes one."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    query = method.path + bare.SerializeToString(deterministic=True).hex()
    return store.rings.data.index(query + json.dumps(values), region="", domain=store.domain)


def token(store: Store, method: contract.Method, request: Any, last: list[Any]) -> str:
    """An opaque token for what follows `last`."""
    plain = int | float | str | None
    values = [v if isinstance(v, plain) else {"t": v.isoformat()} for v in last]
    raw = json.dumps([_proof(store, method, request, values), *values], separators=(",", ":"))
    return base64.urlsafe_b64encode(raw.encode()).decode().rstrip("=")


def read(store: Store, method: contract.Method, request: Any) -> list[Any]:
    """The values in a request's token; Invalid when it is not one that this query was given."""
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
    return int(read(store, method, request)[0])
