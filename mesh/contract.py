"""What the protos declare, read once at start into plain tables: methods with their permissions,
resources with their fields, events with their subjects. Separate, so that nothing else walks
descriptors, and nothing is declared twice."""

import dataclasses
import functools
import importlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2  # noqa: F401 - registers the extensions before the files that use them
from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

import village
from village.options.v1 import options_pb2

TIMESTAMP = "google.protobuf.Timestamp"


class BadContract(SystemExit):
    """The protos contradict themselves; the process stops with this text."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a message. `kind` is one of string, bool, int, double, bytes, enum, timestamp,
    message; repeated fields keep the kind of their element."""

    name: str
    kind: str
    repeated: bool
    optional: bool
    output_only: bool
    filterable: bool
    searchable: bool
    sealed: bool
    personal: int
    meaning: int
    title: str
    enum: dict[int, str]
    message: "Shape | None"


@dataclasses.dataclass(frozen=True)
class Shape:
    """The fields of a message."""

    full_name: str
    fields: tuple[Field, ...]

    @functools.cached_property
    def by_name(self) -> dict[str, Field]:
        return {f.name: f for f in self.fields}

    @functools.cached_property
    def timed(self) -> "tuple[Field, ...]":
        """The fields that are instants or hold some at any depth."""
        return tuple(f for f in self.fields if f.kind == "timestamp" or (f.message and f.message.timed))

    def field(self, name: str) -> Field:
        return self.by_name[name]

    def meaning(self, meaning: int) -> str:
        """Name of the field with that meaning, or empty."""
        return next((f.name for f in self.fields if f.meaning == meaning), "")


@dataclasses.dataclass(frozen=True)
class Resource:
    """A message that is kept, with a name."""

    cls: type[Message]
    shape: Shape
    singular: str
    plural: str
    pattern: re.Pattern[str]
    rises: int
    parents: frozenset[int]
    indexes: tuple[tuple[str, ...], ...]
    unique: tuple[tuple[str, ...], ...]
    checks: tuple[str, ...]

    @functools.cached_property
    def table(self) -> str:
        return snake(self.plural)

    @functools.cached_property
    def division(self) -> str:
        return self.shape.meaning(options_pb2.MEANING_DIVISION)

    @functools.cached_property
    def handling_unit(self) -> str:
        return self.shape.meaning(options_pb2.MEANING_HANDLING_UNIT)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One way to be allowed."""

    roles: frozenset[str]
    scope: int
    handling_unit: bool
    differs_from: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Method:
    """One rpc."""

    path: str
    name: str
    request: type[Message]
    response: type[Message]
    rules: tuple[Rule, ...]
    read_only: bool
    request_fields: frozenset[str]
    given: tuple[tuple[tuple[str, ...], "Shape"], ...] = ()
    """Paths in the request where a resource stands, of which only what a caller may set counts."""
    reveals: bool = False
    deferrable: bool = False
    stays: bool = False
    streams_in: bool = False
    streams_out: bool = False

    @functools.cached_property
    def parent(self) -> str:
        """Name of the request's field that says which region it is about, or empty."""
        return next((f for f in ("name", "parent") if f in self.request_fields), "")

    @functools.cached_property
    def streams(self) -> bool:
        return self.streams_in or self.streams_out

    @functools.cached_property
    def of_nodes(self) -> bool:
        """Whether nodes call it in their own name; it is never passed on."""
        return any(rule.scope == options_pb2.SCOPE_NODE for rule in self.rules)

    @functools.cached_property
    def of_copies(self) -> bool:
        """Whether copies of another node's records can answer it: not what never leaves that node, as its
        files, its audit trail and its deputies."""
        if self.stays:
            return False
        response = self.response.DESCRIPTOR
        parts = [response, *(f.message_type for f in response.fields if f.message_type and f.is_repeated)]
        for part in parts:
            if part.GetOptions().HasExtension(resource_pb2.resource):
                return _resource(part).rises in (options_pb2.RISES_FULL, options_pb2.RISES_MASKED)
        kept_by_plumbing = any(part.full_name.startswith("village.mesh.") for part in parts)
        return not (self.streams or kept_by_plumbing)


@dataclasses.dataclass(frozen=True)
class Event:
    """A message that is announced; `field` holds the resource."""

    cls: type[Message]
    verb: str
    field: str
    resource: str


@dataclasses.dataclass(frozen=True)
class Contract:
    """Everything a package declares."""

    package: str
    methods: dict[str, Method]
    resources: dict[str, Resource]
    events: dict[str, Event]


def snake(camel: str) -> str:
    """`reportPolicies` → `report_policies`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", camel).lower()


def modules(package: str) -> list[Any]:
    """Imports every generated module of a package, as in `village.habitat.v1`."""
    folder = pathlib.Path(*package.split(".")[1:])
    found = sorted(p.stem for root in village.__path__ for p in (root / folder).glob("*_pb2.py"))
    if not found:
        raise BadContract(f"villagemesh: gen/ holds no {package}; run `make gen`")
    return [importlib.import_module(f"{package}.{stem}") for stem in found]


@functools.cache
def read(package: str) -> Contract:
    """Reads a package; stops the process when a method has no permission or an event no resource."""
    methods: dict[str, Method] = {}
    resources: dict[str, Resource] = {}
    events: dict[str, Event] = {}
    for module in modules(package):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                methods[method.name] = _method(method)
        for message in _messages(module.DESCRIPTOR.message_types_by_name.values()):
            if message.GetOptions().HasExtension(resource_pb2.resource):
                resources[message.full_name] = _resource(message)
            if message.GetOptions().HasExtension(options_pb2.event):
                events[message.full_name] = _event(message)
    return Contract(package, methods, resources, events)


def _messages(found: Any) -> Iterator[Descriptor]:
    for message in found:
        yield message
        yield from _messages(message.nested_types)


def access(method: MethodDescriptor) -> Any:
    """Who may call a method: as it says itself, or as its service says of all that read or write."""
    return stated(method.GetOptions(), method.containing_service.GetOptions())


def stated(own: Any, whole: Any) -> Any:
    """The same, from the options of a method and of its service."""
    if own.HasExtension(options_pb2.access):
        return own.Extensions[options_pb2.access]
    reads = own.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    return whole.Extensions[options_pb2.reads if reads else options_pb2.writes]


def _method(method: MethodDescriptor) -> Method:
    options, allowed = method.GetOptions(), access(method)
    path = f"/{method.containing_service.full_name}/{method.name}"
    rules = tuple(
        Rule(
            roles=frozenset(options_pb2.Role.Name(role).removeprefix("ROLE_") for role in rule.roles),
            scope=rule.scope,
            handling_unit=rule.handling_unit,
            differs_from=tuple(rule.differs_from),
        )
        for rule in allowed.allow
    )
    without = (options_pb2.SCOPE_PUBLIC, options_pb2.SCOPE_NODE)
    if not rules or any(not r.scope or (not r.roles and r.scope not in without) for r in rules):
        raise BadContract(f"villagemesh: {path} does not say who may call it")
    if allowed.reveals and "purpose" not in method.input_type.fields_by_name:
        raise BadContract(f"villagemesh: {path} reveals and does not ask for the purpose")
    if allowed.deferrable and "request_id" not in method.input_type.fields_by_name:
        raise BadContract(f"villagemesh: {path} is deferrable and has no request_id")
    return Method(
        path=path,
        name=method.name,
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        rules=rules,
        reveals=allowed.reveals,
        deferrable=allowed.deferrable,
        stays=allowed.stays,
        streams_in=method.client_streaming,
        streams_out=method.server_streaming,
        read_only=options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        request_fields=frozenset(method.input_type.fields_by_name),
        given=tuple(_given(method.input_type)),
    )


def _given(message: Descriptor, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Shape]]:
    for field in message.fields:
        path, inner = (*above, field.name), field.message_type
        if inner and inner.GetOptions().HasExtension(resource_pb2.resource):
            yield path, shape(inner)
        elif inner and inner.full_name.startswith("village."):
            yield from _given(inner, path)


def at(message: Any, path: tuple[str, ...]) -> list[Any]:
    """The messages that stand at a path."""
    found = [message]
    for name in path:
        field = found[0].DESCRIPTOR.fields_by_name[name] if found else None
        if field is not None and field.is_repeated:
            found = [inner for part in found for inner in getattr(part, name)]
        else:
            found = [getattr(part, name) for part in found if part.HasField(name)]
    return found


def resource(cls: type[Message]) -> Resource:
    """The resource that a message class is."""
    return _resource(cls.DESCRIPTOR)


def _resource(message: Descriptor) -> Resource:
    named = message.GetOptions().Extensions[resource_pb2.resource]
    rule = message.GetOptions().Extensions[options_pb2.resource]
    pattern = re.sub(r"\{[^}]+\}", "([^/]+)", named.pattern[0])
    return Resource(
        cls=message_factory.GetMessageClass(message),
        shape=shape(message),
        singular=named.singular,
        plural=named.plural,
        pattern=re.compile(pattern + "$"),
        rises=rule.rises or options_pb2.RISES_MASKED,
        parents=frozenset(rule.parents) or frozenset({3, 4, 5}),
        indexes=tuple(tuple(index.split(",")) for index in rule.indexes),
        unique=tuple(tuple(fields.split(",")) for fields in rule.unique),
        checks=tuple(rule.checks),
    )


@functools.cache
def _event(message: Descriptor) -> Event:
    first = message.fields_by_number[1]
    if not first.message_type or not first.message_type.GetOptions().HasExtension(resource_pb2.resource):
        raise BadContract(f"villagemesh: the first field of {message.full_name} is not a resource")
    rule = message.GetOptions().Extensions[options_pb2.event]
    return Event(
        message_factory.GetMessageClass(message), rule.verb, first.name, first.message_type.full_name
    )


_shapes: dict[str, Shape] = {}


def shape(message: Descriptor) -> Shape:
    """The fields of a message; read once."""
    if message.full_name not in _shapes:
        _shapes[message.full_name] = Shape(message.full_name, tuple(_field(f) for f in message.fields))
    return _shapes[message.full_name]


_KINDS = {
    FieldDescriptor.CPPTYPE_STRING: "string",
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_ENUM: "enum",
    FieldDescriptor.CPPTYPE_DOUBLE: "double",
    FieldDescriptor.CPPTYPE_FLOAT: "double",
}


def _field(field: FieldDescriptor) -> Field:
    rule = field.GetOptions().Extensions[options_pb2.field]
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    kind = _KINDS.get(field.cpp_type, "int")
    if field.type == FieldDescriptor.TYPE_BYTES:
        kind = "bytes"
    if field.message_type:
        kind = "timestamp" if field.message_type.full_name == TIMESTAMP else "message"
    return Field(
        name=field.name,
        kind=kind,
        repeated=field.is_repeated,
        optional=field.has_presence and not field.message_type,
        output_only=field_behavior_pb2.OUTPUT_ONLY in behaviors,
        filterable=rule.filterable,
        searchable=rule.searchable,
        sealed=rule.sealed,
        personal=rule.personal,
        meaning=rule.meaning,
        title=rule.title_zh,
        enum=_enum(field.enum_type) if field.enum_type else {},
        message=shape(field.message_type) if kind == "message" else None,
    )


def _enum(enum: Any) -> dict[int, str]:
    """Numbers to short names: `STATE_ASSIGNED` of enum State is ASSIGNED."""
    start = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(start) for value in enum.values}


def internal(name: str) -> Method:
    """The method that stands for what the plumbing does by itself."""
    from google.protobuf import empty_pb2

    return Method("", name, empty_pb2.Empty, empty_pb2.Empty, (), False, frozenset())


def clear_output_only(message: Message, of: Shape) -> None:
    """Empties what the service sets, and the name, in a message that a caller sent."""
    for field in of.fields:
        if field.output_only or field.name == "name":
            message.ClearField(field.name)


def read_event(cls: type[Message]) -> Event:
    """The event that a message class is."""
    return _event(cls.DESCRIPTOR)
