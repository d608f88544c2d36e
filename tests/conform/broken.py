"""Servers that break one rule each: a proxy before a good one, which alters what goes through it or what
it reflects."""

import concurrent.futures
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from mesh import contract

FOUND = contract.read("village.habitat.v1")
SHOWN = "village.habitat.v1.ReportService"
METHODS = ("FileReport", "GetReport", "ListReports", "AcceptReport", "ComputeReportFigures")
"""The one service of the good server that the broken ones show, and what they show of it: one method of
each kind."""


@dataclasses.dataclass
class Reply:
    """What the good server answered; `status` is None for an answer."""

    raw: bytes = b""
    status: status_pb2.Status | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> list[str]:
        """Fields that a refusal names."""
        bad = self.detail(error_details_pb2.BadRequest)
        return [v.field for v in bad.field_violations] if bad is not None else []

    def detail(self, cls: Any) -> Any:
        for packed in self.status.details if self.status is not None else ():
            found = cls()
            if packed.Unpack(found):
                return found
        return None

    def put(self, detail: Any) -> "Reply":
        """With a detail in the place of the one of its kind."""
        self.drop(type(detail))
        assert self.status is not None
        self.status.details.add().Pack(detail)
        return self

    def drop(self, cls: Any) -> "Reply":
        assert self.status is not None
        kept = [d for d in self.status.details if not d.Is(cls.DESCRIPTOR)]
        del self.status.details[:]
        self.status.details.extend(kept)
        return self


@dataclasses.dataclass
class Call:
    """A call that goes through: the method's name, the request, the headers, and the way to the good
    server."""

    name: str
    raw: bytes
    headers: dict[str, str]
    forward: Callable[[bytes, dict[str, str]], Reply]

    @property
    def request(self) -> Any:
        return FOUND.methods[self.name].request.FromString(self.raw)

    def on(self, request: Any = None, **headers: str) -> Reply:
        """Asks the good server, with another request or other headers."""
        raw = self.raw if request is None else request.SerializeToString()
        return self.forward(raw, {**self.headers, **headers})

    def message(self, reply: Reply) -> Any:
        return FOUND.methods[self.name].response.FromString(reply.raw)


Alter = Callable[[Call], Reply]
Redeclare = Callable[[descriptor_pb2.FileDescriptorProto], None]


def honest(call: Call) -> Reply:
    return call.on()


class Broken(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server at `address` before the good one at `behind`."""

    def __init__(
        self, folder: pathlib.Path, behind: str, alter: Alter = honest, redeclare: Redeclare | None = None
    ) -> None:
        self._alter, self._redeclare = alter, redeclare
        self._channel = grpc.insecure_channel(behind)
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=[self])
        self.address = f"unix:{folder}/broken"
        assert self._server.add_insecure_port(self.address)
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()
        self._channel.close()

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        if path == "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo":
            return grpc.stream_stream_rpc_method_handler(
                self._reflect,
                request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
                response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        method = next((m for m in FOUND.methods.values() if m.path == path), None)
        if method is None:
            return None

        def behave(raw: bytes, context: Any) -> bytes:
            headers = {
                k: v for k, v in context.invocation_metadata() if k in ("authorization", "x-village-read")
            }
            reply = self._alter(Call(method.name, raw, headers, lambda r, h: self._ask(method, r, h)))
            if reply.headers:
                context.send_initial_metadata(reply.headers)
            if reply.status is not None:
                context.abort_with_status(rpc_status.to_status(reply.status))
            return reply.raw

        def down(raw: bytes, context: Any) -> Iterator[bytes]:
            yield behave(raw, context)

        if method.streams_out:
            return grpc.unary_stream_rpc_method_handler(down)
        return grpc.unary_unary_rpc_method_handler(behave)

    def _ask(self, method: contract.Method, raw: bytes, headers: dict[str, str]) -> Reply:
        metadata = tuple(headers.items())
        try:
            if method.streams_out:
                return Reply(
                    next(self._channel.unary_stream(method.path)(raw, metadata=metadata, timeout=10), b"")
                )
            return Reply(self._channel.unary_unary(method.path)(raw, metadata=metadata, timeout=10))
        except grpc.RpcError as fault:
            status = rpc_status.from_call(fault)
            code = fault.code().value[0]
            return Reply(status=status or status_pb2.Status(code=code, message=fault.details() or ""))

    def _reflect(self, asked: Any, _context: Any) -> Iterator[Any]:
        ask = self._channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        for request in asked:
            for answer in ask(iter([request])):
                if answer.HasField("list_services_response"):
                    kept = [s for s in answer.list_services_response.service if s.name == SHOWN]
                    del answer.list_services_response.service[:]
                    answer.list_services_response.service.extend(kept)
                if answer.HasField("file_descriptor_response"):
                    files = answer.file_descriptor_response.file_descriptor_proto
                    files[:] = [self._altered(raw) for raw in files]
                yield answer

    def _altered(self, raw: bytes) -> bytes:
        file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        for service in file.service:
            kept = [m for m in service.method if m.name in METHODS]
            del service.method[:]
            service.method.extend(kept)
        if self._redeclare is not None:
            self._redeclare(file)
        return file.SerializeToString()
