"""What an endpoint declares of a domain, as its reflection tells it: methods, resources, events, reasons.
Read with our annotations and nobody's generated code."""

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import Any

from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from conform import target as targets
from village.options.v1 import options_pb2
from village.type.v1 import level_pb2

OUTPUT_ONLY = field_behavior_pb2.OUTPUT_ONLY
NO_SIDE_EFFECTS = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
STANDARD_FILES = ("events.proto", "error_reason.proto")
"""Files of a package that no service needs to import."""


@dataclasses.dataclass(frozen=True)
class Resource:
    """A message with a name."""

    descriptor: Descriptor

    @functools.cached_property
    def stated(self) -> Any:
        return self.descriptor.GetOptions().Extensions[resource_pb2.resource]

    @property
    def type(self) -> str:
        return str(self.stated.type)

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """The first of its patterns; what nothing matches where it states none."""
        text = self.stated.pattern[0] if self.stated.pattern else "(?!)"
        return re.compile(re.sub(r"\{[^}]+\}", "[^/]+", text) + "$")

    @property
    def rises(self) -> int:
        return int(
            self.descriptor.GetOptions().Extensions[options_pb2.resource].rises or options_pb2.RISES_MASKED
        )

    def written_at(self, region: str) -> bool:
        """Whether a region is of a level under which it is written (GB/T 2260)."""
        level = _level(region)
        stated = self.descriptor.GetOptions().Extensions[options_pb2.resource].parents
        return level in (stated or (level_pb2.LEVEL_COUNTY, level_pb2.LEVEL_CITY, level_pb2.LEVEL_PROVINCE))

    @property
    def subject(self) -> str:
        """Its word in subjects: `report_policy`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.stated.singular).lower()


@dataclasses.dataclass(frozen=True)
class Event:
    """A message that is announced."""

    descriptor: Descriptor

    @property
    def verb(self) -> str:
        return str(self.descriptor.GetOptions().Extensions[options_pb2.event].verb)

    @functools.cached_property
    def resource(self) -> Resource | None:
        """What its first field holds."""
        first = self.descriptor.fields_by_number.get(1)
        return resource_of(first.message_type) if first is not None and first.message_type else None


@dataclasses.dataclass(frozen=True)
class Method:
    """One rpc."""

    descriptor: MethodDescriptor

    @property
    def name(self) -> str:
        return str(self.descriptor.name)

    @functools.cached_property
    def where(self) -> str:
        """How findings call it: `ReportService.FileReport`."""
        return f"{self.descriptor.containing_service.name}.{self.name}"

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.name}"

    @functools.cached_property
    def request(self) -> type[Any]:
        return message_factory.GetMessageClass(self.descriptor.input_type)

    @functools.cached_property
    def response(self) -> type[Any]:
        return message_factory.GetMessageClass(self.descriptor.output_type)

    @functools.cached_property
    def access(self) -> Any:
        own, whole = self.descriptor.GetOptions(), self.descriptor.containing_service.GetOptions()
        if own.HasExtension(options_pb2.access):
            return own.Extensions[options_pb2.access]
        return whole.Extensions[options_pb2.reads if self.reads else options_pb2.writes]

    @functools.cached_property
    def reads(self) -> bool:
        return bool(self.descriptor.GetOptions().idempotency_level == NO_SIDE_EFFECTS)

    @property
    def up(self) -> bool:
        return bool(self.descriptor.client_streaming)

    @property
    def down(self) -> bool:
        return bool(self.descriptor.server_streaming)

    @property
    def takes(self) -> Any:
        """The request's fields by name."""
        return self.descriptor.input_type.fields_by_name

    @functools.cached_property
    def public(self) -> bool:
        return any(rule.scope == options_pb2.SCOPE_PUBLIC for rule in self.access.allow)

    @functools.cached_property
    def of_nodes(self) -> bool:
        return any(rule.scope == options_pb2.SCOPE_NODE for rule in self.access.allow)

    @functools.cached_property
    def http(self) -> Any:
        return self.descriptor.GetOptions().Extensions[annotations_pb2.http]

    @functools.cached_property
    def url(self) -> str:
        rule = self.http
        return str(rule.get or rule.post or rule.patch or rule.put or rule.delete)

    @functools.cached_property
    def place(self) -> tuple[str, str]:
        """The request's field that says what it is about, and the form of its value, as in `name` and
        `regions/*/reports/*`; empty where the URL does not say."""
        found = re.search(r"\{(name|parent)=([^}]+)\}", self.url)
        if found and found[1] in self.takes:
            return found[1], found[2]
        return "", ""

    @functools.cached_property
    def lists(self) -> bool:
        return self.name.startswith("List")

    @functools.cached_property
    def listed(self) -> FieldDescriptor | None:
        """The field of the answer that holds what is listed."""
        return next((f for f in self.descriptor.output_type.fields if f.is_repeated), None)

    @property
    def pages(self) -> bool:
        """Whether it takes and gives what pages need."""
        asked = {"page_size", "page_token"} <= set(self.takes)
        return asked and "next_page_token" in self.descriptor.output_type.fields_by_name

    @functools.cached_property
    def lists_what(self) -> Resource | None:
        """The resource that is listed."""
        listed = self.listed
        return resource_of(listed.message_type) if listed is not None and listed.message_type else None

    @functools.cached_property
    def answers(self) -> Resource | None:
        """The resource that it answers."""
        return resource_of(self.descriptor.output_type)

    @functools.cached_property
    def given(self) -> FieldDescriptor | None:
        """The field of the request that holds the resource which it answers."""
        wanted = self.descriptor.output_type.full_name
        if self.answers is None:
            return None
        return next(
            (f for f in self.takes.values() if f.message_type and f.message_type.full_name == wanted), None
        )

    @functools.cached_property
    def gets(self) -> bool:
        return self.name.startswith("Get") and self.answers is not None and "name" in self.takes

    @functools.cached_property
    def creates(self) -> bool:
        """Whether it makes a record out of what is given."""
        into = "parent" in self.takes and "name" not in self.takes
        return not self.reads and into and self.given is not None and not self.given.is_repeated

    @property
    def updates(self) -> bool:
        return "update_mask" in self.takes


@dataclasses.dataclass(frozen=True)
class Domain:
    """Everything that is declared. `missing`: files that reflection did not give, and what it said;
    `files` are those of the package."""

    name: str
    files: tuple[descriptor_pb2.FileDescriptorProto, ...]
    methods: tuple[Method, ...]
    resources: dict[str, Resource]
    """By the message's full name; those of other packages that its services speak of, too."""
    events: dict[str, Event]
    reasons: frozenset[str] | None
    missing: tuple[str, ...]

    @property
    def package(self) -> str:
        return f"village.{self.name}.v1"

    def messages(self) -> Iterator[Descriptor]:
        """Those of the package."""
        return (r for r in self._all if r.file.package == self.package)

    @functools.cached_property
    def _all(self) -> tuple[Descriptor, ...]:
        pools = [m.descriptor.containing_service.file.pool for m in self.methods[:1]]
        return tuple(
            message for pool in pools for file in self.files
            for message in each(pool.FindFileByName(file.name).message_types_by_name.values())
        )  # fmt: skip


def _level(region: str) -> int:
    if region.endswith("0000"):
        return int(level_pb2.LEVEL_PROVINCE)
    return int(level_pb2.LEVEL_CITY if region.endswith("00") else level_pb2.LEVEL_COUNTY)


def each(messages: Any) -> Iterator[Descriptor]:
    """Messages and those inside them."""
    for message in messages:
        yield message
        yield from each(message.nested_types)


def resource_of(message: Descriptor) -> Resource | None:
    return Resource(message) if message.GetOptions().HasExtension(resource_pb2.resource) else None


def domains(services: tuple[str, ...]) -> list[str]:
    """The domains whose services are listed; what only the mesh serves is none."""
    found = {m[1] for name in services if (m := re.fullmatch(r"village\.([a-z]+)\.v1\.\w+", name))}
    return sorted(found - {"mesh", "options", "type"})


def read(target: targets.Target, domain: str) -> Domain:
    """Reads a domain from what the endpoint reflects."""
    package, missing = f"village.{domain}.v1", []
    known: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    services = [name for name in target.services if name.startswith(f"{package}.")]

    def gather(found: list[descriptor_pb2.FileDescriptorProto]) -> None:
        for file in found:
            if file.name not in known:
                known[file.name] = file
                for name in file.dependency:
                    if name not in known:
                        gather(target.file(name))

    for wanted in services:
        try:
            gather(target.file_of(wanted))
        except targets.Unreflected as fault:
            missing.append(str(fault))
    for name in STANDARD_FILES:
        try:
            gather(target.file(f"village/{domain}/v1/{name}"))
        except targets.Unreflected:
            continue  # a package may have its events elsewhere; what lacks then is found where it is wanted
    return _read(domain, known, services, missing)


def _read(domain: str, known: dict[str, Any], services: list[str], missing: list[str]) -> Domain:
    pool, package = descriptor_pool.DescriptorPool(), f"village.{domain}.v1"
    for name in _in_order(known):
        try:
            pool.AddSerializedFile(known[name].SerializeToString())
        except TypeError as fault:
            missing.append(f"{name} cannot be used: {fault}")
    methods: list[Method] = []
    for name in services:
        try:
            methods += [Method(m) for m in pool.FindServiceByName(name).methods]
        except KeyError:
            missing.append(f"{name} is in none of the files that came")
    resources, events, reasons = {}, {}, None
    for name in known:
        try:
            file = pool.FindFileByName(name)
        except KeyError:
            continue
        for message in each(file.message_types_by_name.values()):
            if (found := resource_of(message)) is not None:
                resources[message.full_name] = found
            if message.GetOptions().HasExtension(options_pb2.event):
                events[message.full_name] = Event(message)
        enum = file.enum_types_by_name.get("ErrorReason")
        if enum is not None and file.package == package:
            reasons = frozenset(v.name.removeprefix("ERROR_REASON_") for v in enum.values)
    own = tuple(f for f in known.values() if f.package == package)
    return Domain(domain, own, tuple(methods), resources, events, reasons, tuple(missing))


def _in_order(known: dict[str, Any]) -> list[str]:
    """File names, each behind those that it imports."""
    order: dict[str, None] = {}

    def put(name: str) -> None:
        if name in known and name not in order:
            for needed in known[name].dependency:
                put(needed)
            order[name] = None

    for name in known:
        put(name)
    return list(order)
