"""Which gRPC services and methods a node offers, read from the descriptor set. Separate, because the
gateway knows services over the wire only: this file is all it learns of them."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

NODE = "node"
"""Name of the node process beside the domains."""

_NODE_SERVICES = {f"village.mesh.v1.{name}Service" for name in ("Contract", "Directory", "Enrolment")}
_UNDESCRIBED = {
    "grpc.reflection.v1.ServerReflection": ("ServerReflectionInfo",),
    "grpc.reflection.v1alpha.ServerReflection": ("ServerReflectionInfo",),
    "grpc.health.v1.Health": ("Watch",),
}


@dataclasses.dataclass(frozen=True)
class Service:
    """A gRPC service and what a proxy must know of its methods. Methods in neither set are unary and
    change something."""

    full_name: str
    process: str
    """The domain, or `node`."""
    reads: frozenset[str]
    """Unary methods without side effects, which may be tried again."""
    streams: frozenset[str]
    """Methods whose request or answer is a stream, which may take long."""
    transcoded: bool
    """Whether it is offered as JSON too."""
    stream_paths: frozenset[str] = frozenset()
    """The URLs of those streams, as regular expressions."""


def services(descriptor_set: bytes, domains: Iterable[str]) -> tuple[Service, ...]:
    """Services of the packages `village.<domain>.v1`, the node's directory, reflection and health.

    ValueError when a domain has no service in the descriptor set."""
    found: list[Service] = []
    wanted = {f"village.{domain}.v1": domain for domain in domains}
    for file in _parse(descriptor_set).file:
        for service in file.service:
            name = f"{file.package}.{service.name}"
            if name in _NODE_SERVICES:
                found.append(_service(name, NODE, service))
            elif file.package in wanted:
                found.append(_service(name, wanted[file.package], service))
    missing = set(wanted.values()) - {service.process for service in found}
    if missing:
        raise ValueError(f"no service of {', '.join(sorted(missing))} in the contracts")
    undescribed = [
        Service(name, NODE, reads=frozenset(), streams=frozenset(streams), transcoded=False)
        for name, streams in _UNDESCRIBED.items()
    ]
    return (*sorted(found, key=lambda service: service.full_name), *undescribed)


def domains(descriptor_set: bytes) -> tuple[str, ...]:
    """Every domain that the contracts know, sorted."""
    packages: set[str] = set()
    for file in _parse(descriptor_set).file:
        match file.package.split("."):
            case ["village", domain, "v1"] if file.service and domain != "mesh":
                packages.add(domain)
    return tuple(sorted(packages))


def without_comments(descriptor_set: bytes) -> bytes:
    """The descriptor set less source positions and comments, which a proxy does not need."""
    parsed = _parse(descriptor_set)
    for file in parsed.file:
        file.ClearField("source_code_info")
    return bytes(parsed.SerializeToString(deterministic=True))


def read(path: pathlib.Path) -> bytes:
    """The descriptor set as bytes; FileNotFoundError says how to make it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `make gen`") from None


def _parse(descriptor_set: bytes) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)


def _service(name: str, process: str, service: descriptor_pb2.ServiceDescriptorProto) -> Service:
    streams = {m.name for m in service.method if m.client_streaming or m.server_streaming}
    safe = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    reads = {m.name for m in service.method if m.options.idempotency_level == safe} - streams
    urls = {_url(m) for m in service.method if m.name in streams}
    return Service(
        name, process, reads=frozenset(reads), streams=frozenset(streams), transcoded=True,
        stream_paths=frozenset(urls - {""}),
    )  # fmt: skip


def _url(method: descriptor_pb2.MethodDescriptorProto) -> str:
    """The URL of a method as a regular expression; empty when it has none."""
    rule = method.options.Extensions[annotations_pb2.http]
    template = re.sub(r"\{\w+=([^}]*)\}", r"\1", rule.get or rule.post)
    return re.sub(r"\*|\{\w+\}", "[^/]+", template)
