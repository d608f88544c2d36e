"""Calling a service: the address and the token in one place, a deadline for every call, and calls that are
repeated when nobody was there, in a way that nothing happens twice."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import functools
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
import tenacity
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message

from village_mesh import contract
from village_mesh.refusal import Refusal

Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
JITTER = tenacity.wait_random_exponential(multiplier=0.2, max=10)
CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class Client:
    """A node, called as somebody. `url`: `http://HOST:PORT`, or `https://` for TLS; `token`: text, or what is
    asked for one before every attempt; `timeout`: seconds that one attempt may take, 15 at most; `patience`:
    seconds in all, in which a call is repeated that got UNAVAILABLE; `trusted`: certificates in PEM that TLS
    believes, those that come with grpcio by default. Any thread may use it."""

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] = "",
        timeout: float = 10.0,
        patience: float = 30.0,
        trusted: bytes | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"{url!r} is not an address as in https://HOST:PORT")
        if parts.scheme == "https":
            secret = grpc.ssl_channel_credentials(root_certificates=trusted)
            self._bare = grpc.secure_channel(f"{parts.hostname}:{parts.port or 443}", secret, CHANNEL)
        else:
            self._bare = grpc.insecure_channel(f"{parts.hostname}:{parts.port or 80}", CHANNEL)
        ask = token if callable(token) else lambda: token
        self.channel = grpc.intercept_channel(self._bare, _Manners(ask, timeout, patience))
        """What stubs are made of."""

    def stub(self, of: Callable[[grpc.Channel], Stub]) -> Stub:
        """The stub of a service, as in `client.stub(report_pb2_grpc.ReportServiceStub)`."""
        return of(self.channel)

    def close(self) -> None:
        self._bare.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_fault: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Told:
    """What an answer says of itself, where nodes belong to a province."""

    served_by: str = ""
    """The node that answered, by its region."""
    as_of: datetime.datetime | None = None
    """The answer holds everything up to this moment; None when it does not say."""
    delivery: str = ""
    """The name of the delivery, when the call was taken for an owner that cannot be reached."""


def told(call: grpc.Call) -> Told:
    """What an answer says of itself: `answer, call = stub.GetReport.with_call(request)`."""
    found = {k: str(v) for k, v in call.initial_metadata() or () if k.startswith("x-village-")}
    as_of = found.get("x-village-as-of")
    return Told(
        served_by=found.get("x-village-served-by", ""),
        as_of=datetime.datetime.fromisoformat(as_of) if as_of else None,
        delivery=found.get("x-village-delivery", ""),
    )


def pages(method: Callable[[Request], Any], request: Request) -> Iterator[Any]:
    """Every record that a method lists, page after page, as in `pages(reports.ListReports, request)`."""
    asked: Any = copy.deepcopy(request)
    while True:
        answer = method(asked)
        yield from getattr(answer, answer.DESCRIPTOR.fields[0].name)
        if not answer.next_page_token:
            return
        asked.page_token = answer.next_page_token


@dataclasses.dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Manners(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor
):
    """How every call of a client is made."""

    def __init__(self, token: Callable[[], str], timeout: float, patience: float) -> None:
        self._token, self._timeout, self._patience = token, timeout, patience

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        request, safe = _repeatable(str(details.method), request)

        def attempt() -> Any:
            return _answered(continuation(self._with(details, self._timeout), request))

        if not safe:
            return attempt()
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_nobody_there), wait=_pause,
            stop=tenacity.stop_before_delay(self._patience), reraise=True,
        )(attempt)  # fmt: skip

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return _answered(continuation(self._with(details, None), requests))

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return _Answers(continuation(self._with(details, None), request))

    def _with(self, details: Any, timeout: float | None) -> _Details:
        metadata = list(details.metadata or ())
        if token := self._token():
            metadata.append(("authorization", f"Bearer {token}"))
        return _Details(
            str(details.method), details.timeout if details.timeout is not None else timeout, tuple(metadata),
            details.credentials, details.wait_for_ready, details.compression,
        )  # fmt: skip


class _Answers:
    """The answers of a stream, or its refusal."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> _Answers:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise Refusal.of(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


def _answered(call: Any) -> Any:
    error = call.exception()
    if isinstance(error, grpc.RpcError):
        raise Refusal.of(error) from error
    return call


def _nobody_there(fault: BaseException) -> bool:
    return isinstance(fault, Refusal) and fault.code is grpc.StatusCode.UNAVAILABLE


def _pause(state: tenacity.RetryCallState) -> float:
    """As long as the service asked for, and then anything up to a bound that doubles, so that those who were
    refused together do not come back together."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.delay if isinstance(fault, Refusal) else None
    return (asked or 0.0) + JITTER(state)


def _repeatable(method: str, request: Any) -> tuple[Any, bool]:
    """The request with a request_id wherever it takes one and has none, and whether it may be repeated."""
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        request = copy.deepcopy(request)
        _identify(request)
        return request, True
    return request, _reads(method.strip("/").replace("/", "."))


@functools.lru_cache(1000)
def _reads(method: str) -> bool:
    """Whether a method says that it changes nothing."""
    try:
        contract.load(method.rpartition(".")[0].rpartition(".")[0])
        found = descriptor_pool.Default().FindMethodByName(method)
    except (ImportError, KeyError):
        return False
    return bool(found.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS)


def _identify(message: Any) -> None:
    for field, value in message.ListFields():
        for part in value if field.is_repeated else [value]:
            if isinstance(part, Message):
                _identify(part)
    if "request_id" in message.DESCRIPTOR.fields_by_name and not message.request_id:
        message.request_id = str(uuid.uuid4())
