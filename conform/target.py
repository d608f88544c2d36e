"""The endpoint on the wire: what it reflects, and calls as bytes with everything that comes back.
Separate, so that the checks know no channel."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import grpc
from buf.validate import validate_pb2  # noqa: F401 - ours, for files that are not reflected
from google.api import annotations_pb2, client_pb2, field_behavior_pb2, httpbody_pb2, resource_pb2  # noqa: F401
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

from village.options.v1 import options_pb2  # noqa: F401

TIMEOUT_S = 15.0
OURS = ("google/", "buf/validate/", "village/options/")
"""Files that are taken as they are known here: annotations are read with ours."""
BUSY, WAITS = grpc.StatusCode.RESOURCE_EXHAUSTED, 20
GONE, SILENCES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"), 5
"""After so many calls one after the other that nobody answered, there is no endpoint any more."""
_DETAILS = {
    cls.DESCRIPTOR.full_name: cls
    for cls in (
        error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.ResourceInfo,
        error_details_pb2.PreconditionFailure, error_details_pb2.RetryInfo,
        error_details_pb2.LocalizedMessage,
    )
}  # fmt: skip


class Unreachable(Exception):  # noqa: N818
    """The endpoint does not answer at all; the text says why."""


class Unreflected(Exception):  # noqa: N818
    """Reflection does not give a file; the text says which."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came: OK and bytes, or a refusal."""

    code: str
    text: str = ""
    raw: bytes = b""
    details: tuple[Any, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        return self.code == "OK"

    def detail(self, cls: Any) -> Any:
        """The detail of that class, or None."""
        return next((d for d in self.details if isinstance(d, cls)), None)

    @property
    def reason(self) -> str:
        info = self.detail(error_details_pb2.ErrorInfo)
        return str(info.reason) if info is not None else ""

    @functools.cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields that a refusal names."""
        bad = self.detail(error_details_pb2.BadRequest)
        return tuple(v.field for v in bad.field_violations) if bad is not None else ()

    def __str__(self) -> str:
        if self.ok:
            return "OK"
        named = f", naming {', '.join(self.fields)}" if self.fields else ""
        return f"{self.code} {self.reason}: {self.text}{named}".replace(" :", ":")


class Target:
    """`address`: HOST:PORT, unix:PATH, http://HOST:PORT or https://HOST:PORT. `ca`: PEM of who signed its
    certificate."""

    def __init__(self, address: str, ca: bytes | None = None) -> None:
        plain = address.removeprefix("http://").removeprefix("https://").rstrip("/")
        self.address, self._silent = address, 0
        self._channel = (
            grpc.secure_channel(plain, grpc.ssl_channel_credentials(ca))
            if address.startswith("https://")
            else grpc.insecure_channel(plain)
        )

    def close(self) -> None:
        self._channel.close()

    @functools.cached_property
    def services(self) -> tuple[str, ...]:
        """The services that reflection lists."""
        answer = self._reflect(reflection_pb2.ServerReflectionRequest(list_services="*"))
        return tuple(s.name for s in answer.list_services_response.service)

    def file_of(self, symbol: str) -> list[descriptor_pb2.FileDescriptorProto]:
        """The file that declares a symbol, and what comes with it."""
        return self._files(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol), symbol)

    def file(self, name: str) -> list[descriptor_pb2.FileDescriptorProto]:
        """A file by its name; ours where annotations are concerned, or where it is not reflected and
        known."""
        if name.startswith(OURS):
            try:
                known = descriptor_pb2.FileDescriptorProto()
                descriptor_pool.Default().FindFileByName(name).CopyToProto(known)
                return [known]
            except KeyError:
                pass
        return self._files(reflection_pb2.ServerReflectionRequest(file_by_filename=name), name)

    def _files(self, request: Any, wanted: str) -> list[descriptor_pb2.FileDescriptorProto]:
        answer = self._reflect(request)
        found = answer.file_descriptor_response.file_descriptor_proto
        if not found:
            why = answer.error_response.error_message or "no file came"
            raise Unreflected(f"reflection does not know {wanted}: {why}")
        try:
            return [descriptor_pb2.FileDescriptorProto.FromString(raw) for raw in found]
        except DecodeError:
            raise Unreflected(f"what reflection gives for {wanted} is no file") from None

    def _reflect(self, request: Any) -> Any:
        last: grpc.RpcError | None = None
        for version in ("v1", "v1alpha"):
            ask = self._channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            )
            try:
                for raw in ask(iter([request.SerializeToString()]), timeout=TIMEOUT_S):
                    return reflection_pb2.ServerReflectionResponse.FromString(raw)
            except DecodeError:
                raise Unreachable(f"what {self.address} answers to reflection cannot be read") from None
            except grpc.RpcError as fault:
                last = fault
                if fault.code() != grpc.StatusCode.UNIMPLEMENTED:
                    break
        why = f"{last.code().name}: {last.details()}" if last is not None else "it ended without an answer"
        raise Unreachable(f"{self.address} does not answer to reflection: {why}")

    def ask(
        self, path: str, raw: bytes, headers: dict[str, str], *, up: bool = False, down: bool = False
    ) -> Answer:
        """One call. `up`, `down`: whether the method streams; of what it streams down the first message is
        taken. Waits where the endpoint says that it is busy."""
        for _ in range(WAITS):
            answer, busy = self._ask(path, raw, tuple(headers.items()), up=up, down=down)
            if not busy:
                break
            time.sleep(busy)
        self._silent = self._silent + 1 if answer.code in GONE and not answer.details else 0
        if self._silent >= SILENCES:
            raise Unreachable(f"{self.address} does not answer any more: {answer}")
        return answer

    def _ask(self, path: str, raw: bytes, metadata: Any, *, up: bool, down: bool) -> tuple[Answer, float]:
        body: Any = iter([raw]) if up else raw
        try:
            if down:
                call = self._channel.unary_stream(path)(body, metadata=metadata, timeout=TIMEOUT_S)
                got = next(iter(call), b"")
                call.cancel()
            else:
                kind = self._channel.stream_unary if up else self._channel.unary_unary
                got, call = kind(path).with_call(body, metadata=metadata, timeout=TIMEOUT_S)
            return Answer("OK", "", bytes(got), (), _texts(call.initial_metadata())), 0.0
        except grpc.RpcError as fault:
            trailers = fault.trailing_metadata() or ()
            answer = Answer(
                fault.code().name, fault.details() or "", b"", tuple(_details(trailers)),
                _texts(fault.initial_metadata()),
            )  # fmt: skip
            return answer, _wait(trailers) if fault.code() == BUSY else 0.0


def _texts(metadata: Any) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in metadata or () if isinstance(v, str))


def _wait(trailers: Any) -> float:
    """Seconds after which to come again; a small one where nothing is said."""
    told = dict(_texts(trailers)).get("retry-after", "")
    return min(float(told), 5.0) if told.replace(".", "", 1).isdigit() and float(told) > 0 else 0.2


def _details(trailers: Any) -> Iterator[Any]:
    raw = next((v for k, v in trailers if k == "grpc-status-details-bin"), None)
    if raw is None:
        return
    try:
        for packed in status_pb2.Status.FromString(raw).details:
            if cls := _DETAILS.get(packed.TypeName()):
                yield cls.FromString(packed.value)
    except DecodeError:
        return


def shown(message: Any) -> str:
    """A message as one line of text."""
    return text_format.MessageToString(message, as_one_line=True, as_utf8=True) or "an empty request"
