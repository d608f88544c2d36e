"""`filter` and `order_by` of lists (AIP-160, AIP-132): a grammar, and conditions on filterable columns.
Separate from `resources`, because text from callers is parsed here and nowhere else."""

import dataclasses
import datetime
import functools
from typing import Any

import lark
import sqlalchemy as sa

from mesh import errors, regions, resources
from mesh.contract import Field, Resource
from village.options.v1 import options_pb2

_GRAMMAR = r"""
?expression: sequence (_AND sequence)*            -> all
?sequence: factor+                                -> all
?factor: term (_OR term)*                         -> any
?term: (_NOT | "-") simple                        -> negation
     | simple
?simple: FIELD COMPARATOR value                   -> comparison
       | "(" expression ")"
value: STRING | WORD
_AND: /AND\b/
_OR: /OR\b/
_NOT: /NOT\b/
FIELD.2: /[a-z][a-z0-9_.]*(?=\s*(<=|>=|!=|=|<|>|:))/
COMPARATOR: "<=" | ">=" | "!=" | "<" | ">" | "=" | ":"
STRING: /"([^"\\]|\\.)*"/ | /'([^'\\]|\\.)*'/
WORD: /[A-Za-z0-9_.:+*-]+/
%ignore /\s+/
"""
_COMPARE: dict[str, Any] = {
    "=": lambda c, v: c == v, "!=": lambda c, v: c != v, "<": lambda c, v: c < v,
    "<=": lambda c, v: c <= v, ">": lambda c, v: c > v, ">=": lambda c, v: c >= v,
}  # fmt: skip


_NOTHING: dict[str, Any] = {"string": "", "enum": "UNSPECIFIED", "bool": False, "int": 0, "double": 0.0}
DEEPEST = 10


@functools.cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, start="expression", parser="lalr", propagate_positions=True)


@dataclasses.dataclass(frozen=True)
class Order:
    """One column to order by."""

    field: Field
    descending: bool


def within(codec: resources.Codec, code: str) -> Any:
    """The condition for the subtree of a region or division. What has no division belongs to the whole
    region."""
    columns, division = codec.table.c, codec.resource.division
    low, high = regions.bounds(code)
    if len(code) == 6:
        if low[:6] == high[:6]:
            return columns.region == code
        return sa.and_(columns.region >= low[:6], columns.region <= high[:6])
    if not division:
        return sa.false()
    place = columns[resources.TOWNSHIP] == code[:9]
    return place if len(code) == 9 else sa.and_(place, columns[division] == code)


def condition(text: str, codec: resources.Codec, region: str) -> Any:
    """The condition that a filter states, or None for an empty one. Invalid, with the character's
    position, for what cannot be read or is not filterable. `region`: whose keyed digests are searched."""
    if not text.strip():
        return None
    if text.count("(") > DEEPEST:
        raise errors.Invalid("filter", f"has more than {DEEPEST} parentheses")
    try:
        return _Conditions(codec, region).transform(_parser().parse(text))
    except lark.exceptions.VisitError as fault:
        raise fault.orig_exc from None
    except lark.exceptions.UnexpectedInput as fault:
        at = getattr(fault, "column", 0)
        at = at if isinstance(at, int) and at > 0 else len(text) + 1
        raise errors.Invalid("filter", f"cannot be read at character {at}") from None
    except (lark.exceptions.LarkError, RecursionError):
        raise errors.Invalid("filter", "cannot be read") from None


class _Conditions(lark.Transformer):  # type: ignore[type-arg]
    """Turns a parsed filter into conditions."""

    def __init__(self, codec: resources.Codec, region: str) -> None:
        super().__init__()
        self._codec, self._region = codec, region

    def all(self, parts: list[Any]) -> Any:
        return sa.and_(*parts)

    def any(self, parts: list[Any]) -> Any:
        return sa.or_(*parts)

    def negation(self, parts: list[Any]) -> Any:
        return sa.not_(parts[0])

    def value(self, parts: list[lark.Token]) -> lark.Token:
        token = parts[0]
        if token.type == "STRING":
            text = token[1:-1].replace('\\"', '"').replace("\\'", "'").replace("\\\\", "\\")
            return lark.Token.new_borrow_pos("TEXT", text, token)
        return token

    def comparison(self, parts: list[lark.Token]) -> Any:
        name, comparator, value = parts
        field = filterable(self._codec.resource, str(name), "filter", at=name.column)
        column = self._codec.table.c[field.name]
        if field.searchable:
            if str(comparator) != "=":
                raise _bad(comparator, f"{field.name} is compared with = only")
            digest = self._codec.search_digest(field, str(value), self._region)
            return self._codec.table.c[f"{field.name}_digest"] == digest
        if str(comparator) == ":" and field.meaning == options_pb2.MEANING_DIVISION:
            if not regions.valid(str(value)):
                raise _bad(value, f"{field.name} takes a region or division of 6, 9 or 12 digits")
            return within(self._codec, str(value))
        if str(comparator) == ":" and str(value) == "*":
            return column.is_not(None) if field.kind == "timestamp" else column != _NOTHING[field.kind]
        compare = _COMPARE["=" if str(comparator) == ":" else str(comparator)]
        if field.kind in ("enum", "bool") and str(comparator) not in ("=", "!=", ":"):
            raise _bad(comparator, f"{field.name} is compared with = and != only")
        return compare(column, _typed(field, value, self._codec.sqlite))


def _bad(token: lark.Token, why: str) -> errors.Invalid:
    return errors.Invalid("filter", f"at character {token.column}: {why}")


def filterable(resource: Resource, name: str, where: str, at: int | None = None) -> Field:
    """The field of that name, if filters, or orders, may use it."""
    fields = [f for f in resource.shape.fields if f.filterable or (f.searchable and where == "filter")]
    for field in fields:
        if field.name == name:
            return field
    known = ", ".join(f.name for f in fields)
    place = f"at character {at}: " if at else ""
    raise errors.Invalid(where, f"{place}{name!r} cannot be used; {where} takes {known}")


def _typed(field: Field, value: lark.Token, sqlite: bool) -> Any:
    text = str(value)
    try:
        if field.kind == "enum":
            short = text.removeprefix(f"{field.name.upper()}_").removeprefix("LEVEL_")
            if short not in field.enum.values():
                raise _bad(value, f"{field.name} takes {', '.join(list(field.enum.values())[1:])}")
            return short
        if field.kind == "bool":
            return {"true": True, "false": False}[text]
        if field.kind == "int":
            if not -(2**63) <= int(text) < 2**63:
                raise ValueError
            return int(text)
        if field.kind == "double":
            return float(text)
        if field.kind == "timestamp":
            when = datetime.datetime.fromisoformat(text)
            if when.tzinfo is None:
                raise ValueError
            return resources.instant(when, sqlite=sqlite)
    except (ValueError, KeyError, OverflowError):
        example = {"bool": "true or false", "timestamp": 'an instant, as in "2026-03-01T00:00:00Z"'}
        raise _bad(value, f"{field.name} takes {example.get(field.kind, 'a number')}") from None
    return text


def order(text: str, resource: Resource) -> list[Order]:
    """The columns that `order_by` states."""
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        words = part.split()
        if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
            raise errors.Invalid("order_by", f"{part!r} is not a field, or a field and asc or desc")
        found.append(Order(filterable(resource, words[0], "order_by"), words[-1] == "desc"))
    return found
