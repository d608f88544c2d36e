"""A contract as one descriptor set (an image), read without the classes that were generated from it, so that
two of them, a release's and today's, can be looked at in one process."""

import functools
import gzip
import pathlib
from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2  # noqa: F401 - registers the extensions before a set is parsed
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2  # noqa: F401 - the same
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from village.options.v1 import options_pb2

ROOT = pathlib.Path(__file__).resolve().parent.parent
TODAY = ROOT / "gen/village.binpb"
DETAILS = "google/rpc/error_details.proto"


class Image:
    """The messages and methods of `village.*` by their full names."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        self.files = files
        self.messages: dict[str, Any] = {}
        self.methods: dict[str, tuple[Any, Any]] = {}
        """The service and the method, by `village.habitat.v1.ReportService.FileReport`."""
        for file in files.file:
            if file.package.startswith("village."):
                self.messages.update(_messages(file.message_type, file.package))
                for service in file.service:
                    for method in service.method:
                        self.methods[f"{file.package}.{service.name}.{method.name}"] = service, method

    @functools.cached_property
    def pool(self) -> descriptor_pool.DescriptorPool:
        """The descriptors, apart from those of this program."""
        pool = descriptor_pool.DescriptorPool()
        for file in self.files.file:
            pool.Add(file)
        return pool

    def cls(self, name: str) -> Any:
        """The class of a message as this image has it."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def events(self) -> Iterator[str]:
        """The names of the messages that are events."""
        return (n for n, m in self.messages.items() if m.options.HasExtension(options_pb2.event))

    def resource(self, event: str) -> Any:
        """How the resource that an event is about is declared."""
        carried = self.messages[self.messages[event].field[0].type_name.lstrip(".")]
        return carried.options.Extensions[resource_pb2.resource]

    def access(self, method: str) -> Any:
        """Who may call a method: as it says itself, or as its service says of all that read or write."""
        service, found = self.methods[method]
        if found.options.HasExtension(options_pb2.access):
            return found.options.Extensions[options_pb2.access]
        reads = found.options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        return service.options.Extensions[options_pb2.reads if reads else options_pb2.writes]

    def bare(self) -> bytes:
        """What a release keeps: our files, the details of refusals and what those need, without comments, the
        same bytes for the same contract, packed."""
        needed = [f.name for f in self.files.file if f.package.startswith("village.") or f.name == DETAILS]
        by_name = {f.name: f for f in self.files.file}
        for name in needed:
            needed += (d for d in by_name[name].dependency if d not in needed)
        kept = descriptor_pb2.FileDescriptorSet(file=[f for f in self.files.file if f.name in needed])
        for file in kept.file:
            file.ClearField("source_code_info")
        return gzip.compress(kept.SerializeToString(deterministic=True), mtime=0)


def _messages(found: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for message in found:
        yield f"{prefix}.{message.name}", message
        yield from _messages(message.nested_type, f"{prefix}.{message.name}")


def read(path: pathlib.Path = TODAY) -> Image:
    """An image from its file."""
    raw = path.read_bytes()
    return Image(
        descriptor_pb2.FileDescriptorSet.FromString(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    )
