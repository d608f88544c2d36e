"""Protobuf messages as JSON Schema (2020-12), in the form that the gateway speaks: names, enums, times, what
`buf.validate` asks, and what the comments say. Separate, because the documents of the methods and of the
events both need it."""

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

from buf.validate import validate_pb2
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2

from village.options.v1 import options_pb2

FieldProto = descriptor_pb2.FieldDescriptorProto
Schema = dict[str, Any]

_INT32: Schema = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Schema = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1}
_INT64: Schema = {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}
_UINT64: Schema = {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}
_PLAIN: dict[int, Schema] = {
    FieldProto.TYPE_STRING: {"type": "string"},
    FieldProto.TYPE_BOOL: {"type": "boolean"},
    FieldProto.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldProto.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldProto.TYPE_INT32: _INT32,
    FieldProto.TYPE_UINT32: _UINT32,
    FieldProto.TYPE_INT64: _INT64,
    FieldProto.TYPE_UINT64: _UINT64,
}
_WELL_KNOWN: dict[str, Schema] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$"},
    ".google.protobuf.FieldMask": {"type": "string"},
    ".google.protobuf.Empty": {"type": "object"},
    ".google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    ".google.api.HttpBody": {},
}
HTTP_BODY = ".google.api.HttpBody"
# (rule, keyword) of numbers; those that JSON writes as strings keep their bounds in words
_BOUNDS = (("gt", "exclusiveMinimum"), ("gte", "minimum"), ("lt", "exclusiveMaximum"), ("lte", "maximum"))
_BEHAVIORS = field_behavior_pb2.field_behavior


@dataclasses.dataclass(frozen=True)
class Described:
    """A message or an enum with its comments."""

    full_name: str
    proto: Any
    comment: str
    parts: tuple[str, ...]
    """Comments of its fields or values, in their order."""

    @property
    def is_message(self) -> bool:
        return isinstance(self.proto, descriptor_pb2.DescriptorProto)


@dataclasses.dataclass(frozen=True)
class Contracts:
    """A descriptor set by names; with comments, if it has them."""

    files: tuple[Any, ...]
    types: dict[str, Described]

    @classmethod
    def of(cls, descriptor_set: bytes) -> "Contracts":
        files = tuple(descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file)
        found = {f".{d.full_name}": d for file in files for d in _types(file)}
        return cls(files, found)

    def fields(self, name: str) -> Iterator[tuple[Any, str]]:
        """The fields of a message, each with its comment."""
        message = self.types[name]
        yield from zip(message.proto.field, message.parts, strict=True)


def comments(file: Any) -> dict[tuple[int, ...], str]:
    """What stands above each element of a file, by its path."""
    return {tuple(at.path): _text(at.leading_comments) for at in file.source_code_info.location}


def _text(comment: str) -> str:
    """A comment as paragraphs, each in one line."""
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(line.strip() for line in p.splitlines()) for p in paragraphs)


def _types(file: Any) -> Iterator[Described]:
    said = comments(file)

    def message(path: tuple[int, ...], prefix: str, proto: Any) -> Iterator[Described]:
        name = f"{prefix}.{proto.name}"
        parts = tuple(said.get((*path, 2, i), "") for i in range(len(proto.field)))
        yield Described(name, proto, said.get(path, ""), parts)
        for i, inner in enumerate(proto.nested_type):
            yield from message((*path, 3, i), name, inner)
        for i, inner in enumerate(proto.enum_type):
            yield enum((*path, 4, i), name, inner)

    def enum(path: tuple[int, ...], prefix: str, proto: Any) -> Described:
        parts = tuple(said.get((*path, 2, i), "") for i in range(len(proto.value)))
        return Described(f"{prefix}.{proto.name}", proto, said.get(path, ""), parts)

    for i, proto in enumerate(file.message_type):
        yield from message((4, i), file.package, proto)
    for i, proto in enumerate(file.enum_type):
        yield enum((5, i), file.package, proto)


def chinese(comment: str) -> str:
    """The first Chinese term in brackets of a comment, as `上报` in "Files a report (上报)."; or empty."""
    found = re.search(r"\(([^()]*[\u4e00-\u9fff][^()]*)\)", comment.partition("\n")[0])
    return found[1] if found else ""


def has(field: Any, behavior: int) -> bool:
    return behavior in field.options.Extensions[_BEHAVIORS]


def enforced(field: Any) -> bool:
    """Whether a request without the field is refused: an absent number is 0, and 0 may be what is meant."""
    if not has(field, field_behavior_pb2.REQUIRED):
        return False
    rules = field.options.Extensions[validate_pb2.field]
    if rules.required or rules.repeated.min_items or rules.string.min_len or rules.string.len:
        return True
    if rules.string.pattern and rules.ignore != validate_pb2.IGNORE_IF_ZERO_VALUE:
        return not re.search(rules.string.pattern, "")
    if field.type == FieldProto.TYPE_MESSAGE:
        return field.label != FieldProto.LABEL_REPEATED
    kind = rules.WhichOneof("type")
    if kind == "enum":
        return 0 in rules.enum.not_in
    if kind in ("bool", "string", "repeated", None):
        return kind == "bool" and bool(rules.bool.const)
    number = getattr(rules, kind)
    return bool((number.HasField("gt") and number.gt >= 0) or (number.HasField("gte") and number.gte > 0))


class Schemas:
    """Collects the schemas of what is referred to; `components` is then the section of that name. `terms` are
    the Chinese names of fields that say none themselves."""

    def __init__(self, contracts: Contracts, package: str, terms: dict[str, str]) -> None:
        self._contracts, self._package, self._terms = contracts, package, terms
        self.components: dict[str, Schema] = {}

    def key(self, type_name: str) -> str:
        """A type's key: without the package in its own domain, `type.v1.Attachment` for others."""
        name = type_name.removeprefix(".")
        return name.removeprefix(f"{self._package}.").removeprefix("village.")

    def ref(self, type_name: str, form: str = "") -> Schema:
        """A reference to a type. `form`: of a resource, `New` where it is the body that makes one: only there
        is something required, because answers leave out what the caller may not see, and updates what
        stays."""
        if type_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[type_name])
        key = self.key(type_name) + (f".{form}" if form else "")
        if key not in self.components:
            self.components[key] = {}  # held, for types that contain themselves
            found = self._contracts.types[type_name]
            made = self.message(type_name, form) if found.is_message else self._enum(found)
            self.components[key] = made
        return {"$ref": f"#/components/schemas/{key}"}

    def _enum(self, found: Described) -> Schema:
        names = [value.name for value in found.proto.value]
        values = [f"- `{name}`: {text}" for name, text in zip(names, found.parts, strict=True) if text]
        return {
            "type": "string",
            **_titled(chinese(found.comment)),
            "description": "\n".join([found.comment, "", *values]),
            "enum": names,
        }

    def message(self, type_name: str, form: str = "", *, without: Collection[str] = ()) -> Schema:
        """The schema of a message, less the fields that are named."""
        found = self._contracts.types[type_name]
        named = found.proto.options.Extensions[resource_pb2.resource]
        properties = {
            f.json_name: self.field(f, text, answered=bool(named.pattern) and not form)
            for f, text in self._contracts.fields(type_name)
            if f.name not in without and not (form and has(f, field_behavior_pb2.OUTPUT_ONLY))
        }
        required = [f.json_name for f in found.proto.field if f.name not in without and enforced(f)]
        schema: Schema = {"type": "object", **_titled(chinese(found.comment)), "description": found.comment}
        if named.pattern:
            schema["x-resource"] = {"type": named.type, "name": named.pattern[0]}
        schema["properties"] = properties
        if required and (form or not named.pattern):
            schema["required"] = required
        choices = [self._one_of(found.proto, i) for i in range(len(found.proto.oneof_decl))]
        if choices := [choice for choice in choices if choice]:
            schema["allOf"] = choices
        return schema

    @staticmethod
    def _one_of(message: Any, index: int) -> Schema | None:
        """At most one of the fields of a `oneof`, or exactly one; None for a field that is merely
        optional."""
        names = [
            f.json_name for f in message.field
            if f.HasField("oneof_index") and f.oneof_index == index and not f.proto3_optional
        ]  # fmt: skip
        if not names:
            return None
        one = [{"required": [name]} for name in names]
        rule = message.oneof_decl[index].options.Extensions[validate_pb2.oneof]
        return {"oneOf": one if rule.required else [*one, {"not": {"anyOf": one}}]}

    def field(self, field: Any, comment: str, *, answered: bool = False) -> Schema:
        """The schema of one field, its rules and comment included. `answered`: of a resource as it is
        answered, where a text may be empty, because the caller may not see it or it was erased."""
        rules = field.options.Extensions[validate_pb2.field]
        ours = field.options.Extensions[options_pb2.field]
        many = field.label == FieldProto.LABEL_REPEATED
        item_rules = rules.repeated.items if many else rules
        item = self.ref(field.type_name) if field.type_name else dict(_PLAIN[field.type])
        if field.type == FieldProto.TYPE_ENUM:
            item = self._values(item, field, item_rules)
        said = _ruled(item, item_rules, empty=answered)
        if ours.personal and field.type == FieldProto.TYPE_STRING:
            _or_masked(item)
        schema: Schema = {"type": "array", "items": item} if many else item
        if many:
            for rule, keyword in (("min_items", "minItems"), ("max_items", "maxItems")):
                if rules.repeated.HasField(rule):
                    schema[keyword] = getattr(rules.repeated, rule)
            if rules.repeated.unique:
                schema["uniqueItems"] = True
        title = ours.title_zh or chinese(comment) or self._terms.get(field.name, "")
        said += [f"Rule: {rule.message or rule.expression}." for rule in rules.cel]
        if ours.personal:
            said.append(f"Personal data ({options_pb2.Personal.Name(ours.personal)}), masked in answers.")
        text = "\n\n".join(filter(None, [comment, *said]))
        about: Schema = {**_titled(title), **({"description": text} if text else {})}
        if has(field, field_behavior_pb2.OUTPUT_ONLY):
            about["readOnly"] = True
        return {**schema, **about}

    def _values(self, reference: Schema, field: Any, rules: Any) -> Schema:
        """An enum's values, those left out that the field's rules do not take."""
        if not rules.enum.not_in:
            return reference
        out = {v.name for v in self._contracts.types[field.type_name].proto.value
               if v.number in rules.enum.not_in}  # fmt: skip
        return {**reference, "not": {"enum": sorted(out)}}


def _or_masked(schema: Schema) -> None:
    """Adds what an answer shows instead."""
    masked = {"pattern": "[*]", "description": "masked (脱敏)"}
    if "anyOf" in schema:
        schema["anyOf"].append(masked)
    elif asked := {key: schema.pop(key) for key in ("pattern", "format", "enum") if key in schema}:
        schema["anyOf"] = [asked, masked]


def _titled(title: str) -> Schema:
    return {"title": title} if title else {}


def _ruled(schema: Schema, rules: Any, *, empty: bool) -> list[str]:
    """Adds what a field's rules ask to its schema; returns what only words can say."""
    kind = rules.WhichOneof("type")
    said: list[str] = []
    if kind == "string":
        _text_rules(schema, rules.string)
    elif kind == "bool" and rules.bool.HasField("const"):
        schema["const"] = rules.bool.const
    elif kind in ("duration", "timestamp"):
        said += [f"Rule: {line.strip()}." for line in str(getattr(rules, kind)).splitlines() if line.strip()]
    elif kind not in (None, "enum", "repeated", "any", "field_mask"):
        number = getattr(rules, kind)
        for rule, keyword in _BOUNDS:
            if not number.HasField(rule):
                continue
            if schema["type"] == "string":
                said.append(f"Rule: {rule} {getattr(number, rule)}.")
            else:
                schema[keyword] = getattr(number, rule)
                schema.pop({"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword, ""), 0)
    if (empty or rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE) and kind == "string":
        asked = {key: schema.pop(key) for key in ("pattern", "format", "minLength", "enum") if key in schema}
        if asked:
            schema["anyOf"] = [{"const": ""}, asked]
    return said


def _text_rules(schema: Schema, rules: Any) -> None:
    for rule, keyword in (("min_len", "minLength"), ("max_len", "maxLength"), ("pattern", "pattern")):
        if rules.HasField(rule):
            schema[keyword] = getattr(rules, rule)
    if rules.HasField("len"):
        schema["minLength"] = schema["maxLength"] = rules.len
    if "in" in {f.name for f, _ in rules.ListFields()}:
        schema["enum"] = list(getattr(rules, "in"))
    if rules.WhichOneof("well_known") == "uuid":
        schema["format"] = "uuid"
