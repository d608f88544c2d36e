"""Requests made from what the contract states of each field: good ones, and ones with one rule broken.
Separate from the checks, which send them."""

import datetime
import random
import re
from collections.abc import Iterator, Mapping
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from conform.declared import OUTPUT_ONLY, Method
from village.options.v1 import options_pb2

NOBODY = "00000000-0000-4000-8000-000000000000"
"""An id that no record has."""
DEEPEST = 3
_BEHAVIOR = field_behavior_pb2.field_behavior
_SET_BY_SERVICE = {OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "google.type.Decimal": {"value": "1"},
    "google.type.Date": {"year": 2026, "month": 3, "day": 2},
    "google.type.Money": {"currency_code": "CNY", "units": 1},
    "google.protobuf.Duration": {"seconds": 3600},
    "google.type.LatLng": {"latitude": 29.264183, "longitude": 115.104927},
    "google.protobuf.FieldMask": {},
}
_LATER = re.compile(r"(end|expire|expiry|due|until|effective|deadline|planned|next)\w*_time$")
PLANTED = {
    options_pb2.PERSONAL_NAME: "欧阳小娜",
    options_pb2.PERSONAL_PHONE: "13912348765",
    options_pb2.PERSONAL_FREE_TEXT: "路口东侧第三户门前",
    options_pb2.PERSONAL_ID_NUMBER: "110101199003070012",
    options_pb2.PERSONAL_ADDRESS: "江西省武宁县新宁镇桥头路七号",
    options_pb2.PERSONAL_BANK_ACCOUNT: "6222021234567894321",
    options_pb2.PERSONAL_IDENTITY: "conform-identity",
}
"""What stands in personal fields, so that it can be looked for where it may not be."""
_USCC, _WEIGHTS = "0123456789ABCDEFGHJKLMNPQRTUWXY", [pow(3, i, 31) for i in range(17)]


class CannotBeMade(Exception):  # noqa: N818
    """No request can be made that the contract takes; the text says what is wrong with the best one."""


def _path(field: Any) -> str:
    text = ""
    for element in field.elements:
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            text += f"[{element.subscript.value}]"
    return text


def uscc(seed: str) -> str:
    """A unified social credit code with the right check character (GB 32100-2015)."""
    code = (f"91{seed}TE5T" + "0" * 17)[:17]
    total = sum(_USCC.index(c) * w for c, w in zip(code, _WEIGHTS, strict=True))
    return code + _USCC[(31 - total % 31) % 31]


class Maker:
    """Makes requests about a region. `known`: names of records that there are, by type; `given`: requests
    by the method's name, in the protobuf JSON mapping, where what is stated does not say enough."""

    def __init__(self, region: str, division: str, known: dict[str, str], given: Mapping[str, Any]) -> None:
        self.region, self.division, self.known, self._given = region, division, known, given
        self._validator = (
            protovalidate.Validator()
        )  # it remembers messages by their names: one for a contract
        self._draw = random.Random()  # noqa: S311 - codes of no meaning, other ones in each run
        self._now = int(datetime.datetime.now(datetime.UTC).timestamp())
        self._places = (
            f"regions/{region}", division, division[:9], region, uscc(region), f"{region}19900307001X",
        )  # fmt: skip

    def wrong(self, message: Message) -> list[tuple[str, str, str]]:
        """(path, rule, text) of everything that the contract does not take in a message."""
        try:
            found = self._validator.collect_violations(message)
        except protovalidate.CompilationError as fault:
            return [("", "buf.validate", f"the rules cannot be read: {fault}")]
        return [(_path(v.proto.field), v.proto.rule_id, v.proto.message) for v in found]

    def good(self, method: Method, *, more: bool = False) -> Any:
        """A request that its contract takes. `more`: with personal fields that it need not have."""
        made = method.request()
        if method.name in self._given:
            try:
                json_format.ParseDict(self._given[method.name], made)
            except json_format.ParseError as fault:
                raise CannotBeMade(f"the sample of {method.name} cannot be read: {fault}") from None
        else:
            self._fill(made, more, 0)
            self._clear_update(method, made)
        if (named := method.place[0]) and not (method.name in self._given and getattr(made, named)):
            setattr(made, named, self.place(method))
        faults = [] if method.updates else self.wrong(made)
        if faults:
            path, _, why = faults[0]
            raise CannotBeMade(f"no request can be made: {path}: {why}; give one with --samples")
        return made

    def broken(self, method: Method, good: Any) -> Iterator[tuple[str, str, Any]]:
        """(path, rule, request): a good request with one rule of one field broken, each rule once. What a
        caller may not set is left alone, and so is the record in a change of a part of it."""
        seen: set[tuple[str, str]] = {(path, rule) for path, rule, _ in self.wrong(good)}
        spared = method.given.name if method.updates and method.given is not None else ""
        for change in _changes(good, (), spared):
            request = type(good)()
            request.CopyFrom(good)
            change(request)
            found = self.wrong(request)
            for path, rule, _ in found:
                if (path, rule) not in seen and path.partition(".")[0] != spared:
                    seen.add((path, rule))
                    yield path, rule, request
                    break

    def place(self, method: Method, *, of: str = NOBODY, region: str = "") -> str:
        """The name or parent that a method is about; with an id of nobody's where no record is known."""
        form = method.place[1].replace("regions/*", f"regions/{region or self.region}", 1)
        if "*" not in form:
            return form
        known = None if region or of != NOBODY else self.known.get(form.split("/")[-2])
        return known or form.replace("*", of)

    @staticmethod
    def _clear_update(method: Method, made: Any) -> None:
        """A change of nothing, whatever the record looks like."""
        if method.updates:
            made.update_mask.Clear()
            if method.given is not None:
                getattr(made, method.given.name).Clear()

    def _fill(self, message: Any, more: bool, depth: int) -> None:
        of: Descriptor = message.DESCRIPTOR
        if of.full_name in _FIXED:
            for name, value in _FIXED[of.full_name].items():
                setattr(message, name, value)
            return
        chosen = {group.fields[0].name for group in of.oneofs if len(group.fields) > 1}
        for field in of.fields:
            if _is_map(field):
                continue
            if _SET_BY_SERVICE & set(field.GetOptions().Extensions[_BEHAVIOR]):
                continue
            if not _needed(field, depth) and field.name not in chosen and not (more and _personal(field)):
                continue
            among = field.containing_oneof
            if among is not None and len(among.fields) > 1 and field.name not in chosen:
                continue
            self._set(message, field, more, depth)

    def _set(self, message: Any, field: FieldDescriptor, more: bool, depth: int) -> None:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if field.is_repeated:
            for _ in range(max(rules.repeated.min_items, 1)):
                if field.message_type:
                    self._inside(getattr(message, field.name).add(), field, more, depth)
                else:
                    getattr(message, field.name).append(self._value(field, rules.repeated.items))
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            self._inside(getattr(message, field.name), field, more, depth)
        else:
            setattr(message, field.name, self._value(field, rules))

    def _inside(self, message: Any, field: FieldDescriptor, more: bool, depth: int) -> None:
        if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
            message.seconds = self._now + (7 * 86_400 if _LATER.search(field.name) else -3600)
        elif depth < 2 * DEEPEST:
            self._fill(message, more, depth + 1)

    def _value(self, field: FieldDescriptor, rules: Any) -> Any:
        options = field.GetOptions()
        if field.enum_type:
            known = getattr(rules.enum, "in") or [v.number for v in field.enum_type.values]
            return next((n for n in known if n and n not in rules.enum.not_in), 0)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return b"x" * max(rules.bytes.min_len, 1)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            kind = options.Extensions[resource_pb2.resource_reference].type
            if known_name := self.known.get(kind):
                return known_name
            personal = options.Extensions[options_pb2.field].personal
            if personal in PLANTED and not rules.string.pattern:
                return PLANTED[personal]
            if options.Extensions[options_pb2.field].meaning == options_pb2.MEANING_DIVISION:
                return self.division
            return self._text(rules.string)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return not rules.bool.HasField("const") or rules.bool.const
        kind = rules.WhichOneof("type")
        return _number(getattr(rules, kind)) if kind else 1

    def _text(self, rules: Any) -> str:
        if rules.uuid:
            return NOBODY
        if some := getattr(rules, "in"):
            return str(some[0])
        if not rules.pattern:
            text = f"一致性检验{self._draw.randrange(10**6):06d}"
            least = max(rules.min_len, rules.len, 1)
            most = rules.len or (rules.max_len if rules.HasField("max_len") else 0) or len(text)
            return text.ljust(least, "字")[: max(most, least)]
        try:
            for place in (*self._places, *PLANTED.values()):
                if re.search(rules.pattern, place):
                    return place
            found = self._matching(_parser.parse(rules.pattern))
        except re.error:  # RE2 has what Python's have not, such as \p{Han}
            return PLANTED[options_pb2.PERSONAL_NAME]
        return re.sub(r"^regions/\d{6}", f"regions/{self.region}", found)

    def _matching(self, parsed: Any) -> str:
        """A text that a pattern takes."""
        text = ""
        for kind, what in parsed:
            name = str(kind)
            if name == "LITERAL":
                text += chr(what)
            elif name == "IN":
                first, value = what[0]
                if str(first) == "RANGE":
                    text += chr(self._draw.randint(value[0], value[1]))
                else:
                    text += {"CATEGORY": "0", "NEGATE": "a"}.get(str(first)) or chr(value)
            elif name in ("MAX_REPEAT", "MIN_REPEAT"):
                least, most, inner = what
                for _ in range(least if least else min(int(most), 6)):
                    text += self._matching(inner)
            elif name == "SUBPATTERN":
                text += self._matching(what[3])
            elif name == "BRANCH":
                text += self._matching(what[1][0])
            elif name in ("ANY", "NOT_LITERAL"):
                text += "a"
        return text


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _needed(field: FieldDescriptor, depth: int) -> bool:
    options = field.GetOptions()
    rules, behaviors = options.Extensions[validate_pb2.field], options.Extensions[_BEHAVIOR]
    if field.name == "parent" and depth == 0:
        return True
    division = options.Extensions[options_pb2.field].meaning == options_pb2.MEANING_DIVISION
    least = field.is_repeated and rules.repeated.min_items
    return bool(field_behavior_pb2.REQUIRED in behaviors or rules.required or division or least)


def _personal(field: FieldDescriptor) -> bool:
    """Whether a field is personal, or is a message that holds such fields; files are not, which would have
    to be there first."""
    inner, personal = field.message_type, field.GetOptions().Extensions[options_pb2.field].personal
    if personal:
        return inner is None or personal == options_pb2.PERSONAL_LOCATION
    return inner is not None and any(
        f.GetOptions().Extensions[options_pb2.field].personal for f in inner.fields
    )


def _number(rules: Any) -> Any:
    low = rules.gte if rules.HasField("gte") else rules.gt if rules.HasField("gt") else None
    high = rules.lte if rules.HasField("lte") else rules.lt if rules.HasField("lt") else None
    one = 1 if low is None or low < 1 or (low == 1 and rules.HasField("gte")) else low + 1
    return one if high is None or one <= high else high if low is None else (low + high) / 2


def _changes(message: Any, way: tuple[Any, ...], spared: str) -> Iterator[Any]:
    """Functions that change one field of a message that stands at `way` in a request."""
    of: Descriptor = message.DESCRIPTOR
    if of.full_name.startswith("google."):
        return
    for field in of.fields:
        rules, behaviors = (
            field.GetOptions().Extensions[validate_pb2.field], field.GetOptions().Extensions[_BEHAVIOR]
        )  # fmt: skip
        if field.name == spared or _is_map(field) or _SET_BY_SERVICE & set(behaviors):
            continue
        if rules.ByteSize() or of.oneofs:
            for value in _values(field, rules):
                yield _setter(way, field, value)
        if field.message_type and len(way) < DEEPEST:
            held = getattr(message, field.name)
            if field.is_repeated and len(held):
                yield from _changes(held[0], (*way, (field.name, 0)), "")
            elif not field.is_repeated and message.HasField(field.name):
                yield from _changes(held, (*way, (field.name, None)), "")


def _setter(way: tuple[Any, ...], field: FieldDescriptor, value: Any) -> Any:
    def change(request: Any) -> None:
        message = request
        for name, at in way:
            message = getattr(message, name) if at is None else getattr(message, name)[at]
        if value is None:
            message.ClearField(field.name)
        elif isinstance(value, _Times):
            held = getattr(message, field.name)
            items = list(held)[:1] * value.count
            del held[:]
            held.extend(items)
        elif field.is_repeated:
            held = getattr(message, field.name)
            held[:] = [value, *list(held)[1:]]
        else:
            setattr(message, field.name, value)

    return change


class _Times:
    """As many elements of a list as there are in the first of it."""

    def __init__(self, count: int) -> None:
        self.count = count


def _values(field: FieldDescriptor, rules: Any) -> Iterator[Any]:
    """Values that may break a field's rules; None empties it."""
    yield None
    if field.is_repeated:
        if rules.repeated.max_items:
            yield _Times(rules.repeated.max_items + 1)
        if rules.repeated.unique:
            yield _Times(2)
        if field.message_type:
            return
        rules = rules.repeated.items
    if field.message_type:
        return
    if field.enum_type:
        yield from (99_999, *rules.enum.not_in)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield from (b"", b"x" * (rules.bytes.max_len + 1))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield "!"
        if 0 < rules.string.max_len < 100_000:
            yield "a" * (rules.string.max_len + 1)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        yield not rules.bool.const
    else:
        yield from _numbers(field, rules)


def _numbers(field: FieldDescriptor, rules: Any) -> Iterator[Any]:
    kind = rules.WhichOneof("type")
    if kind is None:
        return
    of, real = (
        getattr(rules, kind),
        field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT),
    )
    unsigned = field.cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    for name, step in (("gte", -1), ("gt", 0), ("lte", 1), ("lt", 0)):
        if of.HasField(name) and not (unsigned and getattr(of, name) + step < 0):
            yield getattr(of, name) + step
    if real:
        yield from (float("inf"), float("nan"))
