"""The rules of the contract, which need no call: they look at what reflection gave."""

import collections
import re
from collections.abc import Iterator
from typing import Any

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor

from conform import declared
from conform.declared import Domain, Method
from conform.notes import Notes
from village.options.v1 import options_pb2

_BEHAVIOR = field_behavior_pb2.field_behavior
_WITHOUT_ROLES = (options_pb2.SCOPE_PUBLIC, options_pb2.SCOPE_NODE)
_LOOSE = {
    "google.protobuf.Struct",
    "google.protobuf.Any",
    "google.protobuf.Value",
    "google.protobuf.ListValue",
}


def check(domain: Domain, notes: Notes) -> None:
    """Looks at everything that the domain declares."""
    notes.expect(not domain.missing, "reflection", domain.package, came="; ".join(domain.missing))
    for file in domain.files:
        where = f"{domain.package.replace('.', '/')}/"
        notes.expect(file.name.startswith(where), "package", file.name, came=f"it is not in {where}")
        _comments(file, notes)
    for method in domain.methods:
        _method(domain, method, notes)
    alike = collections.defaultdict(list)
    for event in domain.events.values():
        alike[_kind(event), event.verb].append(event.descriptor.name)
    for message in domain.messages():
        if message.GetOptions().HasExtension(resource_pb2.resource):
            _resource(domain, message, notes)
        if message.GetOptions().HasExtension(options_pb2.event):
            _event(message, alike, notes)
    _reasons(domain, notes)
    if not any(e.descriptor.file.package == domain.package for e in domain.events.values()):
        notes.not_run("events", domain.package, "reflection shows no event of the package")


def _method(domain: Domain, method: Method, notes: Notes) -> None:
    where, takes = method.where, method.takes
    _access(method, notes)
    _url(domain, method, notes)
    if method.name.startswith(("Get", "List", "BatchGet")):
        notes.expect(method.reads, "reads", where, came="it does not say NO_SIDE_EFFECTS")
    elif method.name.startswith(("Create", "Update", "Delete")):
        notes.expect(not method.reads, "reads", where, came="it says NO_SIDE_EFFECTS")
    if method.lists:
        first = method.descriptor.output_type.fields[0] if method.descriptor.output_type.fields else None
        lacks = [name for name in ("parent", "page_size", "page_token") if name not in takes]
        lacks += (
            ["next_page_token"] if "next_page_token" not in method.response.DESCRIPTOR.fields_by_name else []
        )
        lacks += ["records as the answer's first field"] if first is None or not first.is_repeated else []
        notes.expect(not lacks, "pages", where, came=f"there is no {', no '.join(lacks)}")
    if not (method.up or method.access.reveals or method.of_nodes):
        right = method.reads != ("request_id" in takes)
        came = (
            "it reads, and takes request_id"
            if method.reads
            else "it changes something, and takes no request_id"
        )
        notes.expect(right, "request-id-field", where, came=came)
        if not method.reads and "name" in takes:
            record = method.answers
            etag = record.descriptor.fields_by_name.get("etag") if record is not None else None
            lacks = [] if "etag" in takes else ["the request has no etag"]
            if record is not None and (etag is None or not _output_only(etag)):
                lacks.append(f"{record.descriptor.name} has no OUTPUT_ONLY etag")
            notes.expect(not lacks, "etag-field", where, came=", ".join(lacks))
    silent = [
        f.name for f in takes.values()
        if f.containing_oneof is None and not f.GetOptions().Extensions[_BEHAVIOR]
    ]  # fmt: skip
    notes.expect(not silent, "behavior", where, came=f"it says nothing of {', '.join(silent)}")


def _access(method: Method, notes: Notes) -> None:
    wrong = [] if method.access.allow else ["it does not say who may call it"]
    for rule in method.access.allow:
        if not rule.scope:
            wrong.append("a way without a scope")
        elif bool(rule.roles) == (rule.scope in _WITHOUT_ROLES):
            scope = options_pb2.Scope.Name(rule.scope)
            wrong.append(f"{scope} {'with' if rule.roles else 'without'} roles")
        if options_pb2.ROLE_SYS in rule.roles:
            wrong.append("a way for SYS, which no token can be")
    notes.expect(not wrong, "access", method.where, came=", ".join(wrong))


def _url(domain: Domain, method: Method, notes: Notes) -> None:
    wrong, start = [], f"/{domain.name}/v1/"
    if not method.url:
        wrong.append("it has none")
    elif not method.url.startswith(start):
        wrong.append(f"{method.url} does not begin with {start}")
    elif not re.fullmatch(r"/[\w/{}=*.\-]+(:[a-z]\w*)?", method.url):
        wrong.append(f"{method.url} is not a resource name with a verb behind a colon")
    if method.url and method.reads != bool(method.http.get):
        wrong.append("it reads and is no GET" if method.reads else "it is a GET and does not only read")
    lacking = [v for v in re.findall(r"\{([a-z_]\w*)", method.url) if v not in method.takes]
    wrong += [f"{{{name}}} is no field of the request" for name in lacking]
    notes.expect(not wrong, "url", method.where, came=", ".join(wrong))


def _output_only(field: Any) -> bool:
    return declared.OUTPUT_ONLY in field.GetOptions().Extensions[_BEHAVIOR]


def _resource(domain: Domain, message: Descriptor, notes: Notes) -> None:
    where, stated = message.name, message.GetOptions().Extensions[resource_pb2.resource]
    wanted = f"{domain.name}.village/{message.name}"
    notes.expect(stated.type == wanted, "package", where, came=f"its type is {stated.type!r}, not {wanted!r}")
    wrong, first = [], message.fields_by_number.get(1)
    if first is None or first.name != "name" or first.type != first.TYPE_STRING or first.is_repeated:
        wrong.append("its first field is not `string name = 1`")
    elif field_behavior_pb2.IDENTIFIER not in first.GetOptions().Extensions[_BEHAVIOR]:
        wrong.append("its name is not an IDENTIFIER")
    if not stated.singular or not stated.plural:
        wrong.append("it states no singular or no plural")
    form = rf"regions/\{{region\}}/([a-zA-Z]+/\{{\w+\}}/)*{re.escape(stated.plural)}/\{{\w+\}}"
    wrong += [f"its pattern is {p!r}" for p in stated.pattern if not re.fullmatch(form, p)]
    if not stated.pattern:
        wrong.append("it states no pattern")
    notes.expect(not wrong, "resource", where, came=", ".join(wrong))
    rises = message.GetOptions().Extensions[options_pb2.resource].rises
    notes.expect(bool(rises), "rises", where, came="it states nothing")
    for field in message.fields:
        if field.enum_type is not None and field.enum_type.name == "State" and field.name == "state":
            came = f"{message.name}.{field.name} is not OUTPUT_ONLY"
            notes.expect(_output_only(field), "state", where, came=came)
    _loose(message, notes)


def _event(message: Descriptor, alike: dict[tuple[str, str], list[str]], notes: Notes) -> None:
    event, wrong = declared.Event(message), []
    if event.resource is None:
        wrong.append("its first field is no resource")
    if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event.verb):
        wrong.append(f"its verb is {event.verb!r}")
    twins = [n for n in alike[_kind(event), event.verb] if n != message.name]
    if event.resource is not None and twins:
        wrong.append(f"{', '.join(twins)} has its verb too")
    notes.expect(not wrong, "events", message.name, came=", ".join(wrong))
    _loose(message, notes)


def _kind(event: declared.Event) -> str:
    return str(event.resource.descriptor.full_name) if event.resource is not None else ""


def _loose(message: Descriptor, notes: Notes) -> None:
    found = sorted(set(_loose_fields(message, message.name, ())))
    notes.expect(not found, "loose-fields", message.name, came=f"it holds {', '.join(found)}")


def _loose_fields(message: Descriptor, path: str, above: tuple[str, ...]) -> Iterator[str]:
    for field in message.fields:
        inner = field.message_type
        if inner is None or inner.full_name in above:
            continue
        if inner.full_name in _LOOSE or inner.GetOptions().map_entry:
            yield f"{path}.{field.name}"
        elif not inner.full_name.startswith("google."):
            yield from _loose_fields(inner, f"{path}.{field.name}", (*above, message.full_name))


def _reasons(domain: Domain, notes: Notes) -> None:
    if domain.reasons is None:
        notes.not_run("reasons", domain.package, "it states no reasons of its own")
        return
    enums = [e for file in domain.files for e in file.enum_type if e.name == "ErrorReason"]
    wrong = [v.name for e in enums for v in e.value if not v.name.startswith("ERROR_REASON_")]
    notes.expect(not wrong, "reasons", domain.package, came=f"its values {', '.join(wrong)}")


def _comments(file: descriptor_pb2.FileDescriptorProto, notes: Notes) -> None:
    told = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments.strip()}
    if not file.HasField("source_code_info"):
        notes.not_run("comments", file.name, "reflection does not tell comments")
        return
    bare = [name for path, name in _elements(file) if path not in told]
    notes.expect(not bare, "comments", file.name, came=f"without: {', '.join(bare)}")


def _elements(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Everything that is to be commented, by its path in the file (descriptor.proto, SourceCodeInfo)."""
    for i, service in enumerate(file.service):
        yield (6, i), service.name
        yield from (((6, i, 2, k), f"{service.name}.{m.name}") for k, m in enumerate(service.method))
    for i, message in enumerate(file.message_type):
        yield from _of_message((4, i), message)
    for i, enum in enumerate(file.enum_type):
        yield from _of_enum((5, i), enum)


def _of_message(path: tuple[int, ...], message: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    if message.options.map_entry:
        return
    yield path, message.name
    yield from (((*path, 2, i), f"{message.name}.{field.name}") for i, field in enumerate(message.field))
    for i, nested in enumerate(message.nested_type):
        yield from _of_message((*path, 3, i), nested)
    for i, enum in enumerate(message.enum_type):
        yield from _of_enum((*path, 4, i), enum)


def _of_enum(path: tuple[int, ...], enum: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, enum.name
    yield from (((*path, 2, i), f"{enum.name}.{value.name}") for i, value in enumerate(enum.value))
