"""The one chain that every call goes through, from raw bytes on — trace, identity, decode, shape,
ownership, handler, commit, mask, errors — and its adapter to grpcio. Separate from the handlers, so that
they know no transport; a second transport calls the same chain."""

import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import protovalidate
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from mesh import calls, contract, database, errors, identity, privacy, resources, telemetry, wire
from mesh.store import Store

ATTEMPTS = 5
LEAST_TIME_S = 0.02
log = logging.getLogger(__name__)
Handler = Callable[[Any, calls.Call], Message]


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One method as it is served. `store` is None for methods that keep nothing."""

    method: contract.Method
    handler: Handler
    store: Any
    published: Callable[[], None]
    """Says that something was committed."""


@dataclasses.dataclass(frozen=True)
class Incoming:
    """What a transport knows of a call. `remaining`: seconds left, None for no deadline."""

    path: str
    raw: bytes
    headers: Mapping[str, str]
    remaining: float | None = None


class Chain:
    """Answers calls."""

    def __init__(
        self,
        *,
        issuers: identity.Issuers,
        ring: privacy.KeyRing,
        region: str,
        node: Any = None,
        clock: Callable[[], datetime.datetime] = resources.utcnow,
    ) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self._by_request: dict[str, Endpoint] = {}
        self._references: dict[tuple[identity.Caller, str], str] = {}
        self._issuers, self._ring, self._region, self.node, self._clock = issuers, ring, region, node, clock
        self._validator = protovalidate.Validator()

    def add(self, endpoint: Endpoint) -> None:
        """Serves a method."""
        self.endpoints[endpoint.method.path] = endpoint
        self._by_request[endpoint.method.request.DESCRIPTOR.full_name] = endpoint

    def endpoint_of(self, request: Message) -> Endpoint:
        """The endpoint that takes requests of this type."""
        return self._by_request[request.DESCRIPTOR.full_name]

    def answer(self, incoming: Incoming) -> bytes:
        """The answer's bytes. Raises a Refusal, and nothing else."""
        trace = telemetry.traceparent(incoming.headers.get("traceparent", ""))
        try:
            return self._answer(self.endpoints[incoming.path], incoming, trace)
        except errors.Refusal:
            raise
        except Exception as fault:
            trace_id = telemetry.trace_id(trace)
            log.exception("a call failed", extra={"about": {"path": incoming.path, "trace_id": trace_id}})
            raise errors.Internal(trace_id=trace_id) from fault

    def _answer(self, endpoint: Endpoint, incoming: Incoming, trace: str) -> bytes:
        now, method = self._clock(), endpoint.method
        if incoming.remaining is not None and incoming.remaining < LEAST_TIME_S:
            raise errors.DeadlineExceeded
        caller = self._caller(incoming.headers, now)
        identity.permit(method, caller, None)
        try:
            request = method.request.FromString(incoming.raw)
        except DecodeError as fault:
            raise wire.explain(incoming.raw, method.request.DESCRIPTOR) from fault
        request.DiscardUnknownFields()  # what no annotation describes is neither kept nor announced
        wire.settle(request, contract.shape(method.request.DESCRIPTOR), incoming.raw)
        for field, of in method.given:
            if request.HasField(field):
                contract.clear_output_only(getattr(request, field), of)
        self._check_shape(request)
        return self.perform(endpoint, request, caller, now, trace).SerializeToString()

    def _caller(self, headers: Mapping[str, str], now: datetime.datetime) -> identity.Caller:
        authorization = headers.get("authorization", "")
        if not authorization:
            return identity.PUBLIC
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise errors.Unauthenticated(why="authorization is not `Bearer TOKEN`")
        return self._issuers.caller(token.strip(), now.timestamp())

    def _check_shape(self, request: Message) -> None:
        found = self._validator.collect_violations(request)
        if found:
            raise errors.Invalid.several([(_path(v.proto.field), v.proto.message) for v in found])

    def perform(
        self, endpoint: Endpoint, request: Any, caller: identity.Caller, now: datetime.datetime, trace: str
    ) -> Message:
        """Runs a decoded and valid request, and commits it; the answer is masked."""
        method = endpoint.method
        region = resources.region_in(getattr(request, method.parent)) if method.parent else self._region
        identity.permit(method, caller, identity.Place(region=region))
        reference = self._reference(caller, endpoint.store)
        request_id = "" if method.read_only else getattr(request, "request_id", "")
        fingerprint = _fingerprint(method, request) if request_id else ""
        etag = getattr(request, "etag", "")
        for _ in range(ATTEMPTS):
            if request_id:  # asked each time: a repetition may have overtaken the first
                answered = self._replay(endpoint, reference, request_id, fingerprint)
                if answered is not None:
                    return answered
            if not method.read_only:
                endpoint.store.grants.of(region)
            call = calls.Call(
                endpoint.store, method=method, caller=caller, reference=reference, now=now, etag=etag,
                request_id=request_id, trace=trace, region=region,
                services=Services(self, caller, now, trace),
            )  # fmt: skip
            answer = endpoint.handler(request, call)
            if method.read_only:  # nothing of it is stored
                privacy.mask(answer, resources.shape_of(answer))
            else:
                answer = masked(answer)
            try:
                sealed = self._seal(answer, reference, request_id) if request_id else ""
                commit = call.commit(sealed, fingerprint)
                if commit is not None:
                    endpoint.store.commit(commit)
                    endpoint.published()
                return answer
            except database.Moved:
                continue
            except database.Disowned:
                endpoint.store.grants.read()
            except database.Taken as fault:
                if request_id and endpoint.store.answered(reference, request_id):
                    continue
                if call.creates():
                    raise errors.AlreadyExists(name=call.creates()) from fault
        raise errors.Conflict(name=str(getattr(request, method.parent, "the record")))

    def _reference(self, caller: identity.Caller, store: Store | None) -> str:
        """How the caller stands in what is kept: officials by subject, others sealed."""
        domain = store.domain if store is not None else ""
        known = self._references.get((caller, domain))
        if known is None:
            if len(self._references) >= 10_000:
                self._references.clear()
            sealed = self._ring.index(f"{caller.issuer}|{caller.subject}", region=self._region, domain=domain)
            known = caller.subject if caller.official or not caller.subject else f"sealed:{sealed}"
            self._references[caller, domain] = known
        return known

    def _seal(self, answer: Message, reference: str, request_id: str) -> str:
        return self._ring.encrypt(answer.SerializeToString().hex(), f"{reference}/{request_id}")

    def _replay(self, endpoint: Endpoint, reference: str, request_id: str, mark: str) -> Message | None:
        """The first answer to a repeated request."""
        found = endpoint.store.answered(reference, request_id)
        if found is None:
            return None
        if found[0] != mark:
            raise errors.Invalid("request_id", "was used for another request")
        raw = bytes.fromhex(self._ring.decrypt(found[1], f"{reference}/{request_id}"))
        return endpoint.method.response.FromString(raw)


@dataclasses.dataclass(frozen=True)
class Services:
    """What handlers of the plumbing itself may ask of the process they run in."""

    chain: Chain
    caller: identity.Caller
    now: datetime.datetime
    trace: str

    @property
    def node(self) -> Any:
        return self.chain.node

    def perform(self, request: Message) -> Message:
        """Runs a request by itself, as its caller, with a commit of its own."""
        endpoint = self.chain.endpoint_of(request)
        identity.permit(endpoint.method, self.caller, None)
        return self.chain.perform(endpoint, request, self.caller, self.now, self.trace)


def masked(message: Message) -> Message:
    """The message with personal fields masked; a copy, because the original is what gets stored."""
    of = resources.shape_of(message)
    if not privacy.touches(of):
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    privacy.mask(copy, of)
    return copy


def _fingerprint(method: contract.Method, request: Any) -> str:
    raw = method.path.encode() + request.SerializeToString(deterministic=True)
    return hashlib.sha256(raw).hexdigest()


def _path(field: Any) -> str:
    """A field path as people write it: `actions[3].accept.name`."""
    text = ""
    for element in field.elements:
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            text += f"[{element.subscript.value}]"
    return text


def status(refusal: errors.Refusal) -> status_pb2.Status:
    """A refusal as `google.rpc.Status` with its details."""
    found = status_pb2.Status(code=refusal.code, message=str(refusal))
    meta = refusal.metadata
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=refusal.domain, metadata=meta)
    ]
    if isinstance(refusal, errors.Invalid):
        bad = error_details_pb2.BadRequest()
        for field, why in refusal.violations:
            bad.field_violations.add(field=field, description=why)
        details.append(bad)
    elif isinstance(refusal, errors.NotFound | errors.AlreadyExists):
        details.append(error_details_pb2.ResourceInfo(resource_name=meta["name"]))
    elif isinstance(refusal, errors.Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(refusal.delay * 1000))
        details.append(retry)
    elif refusal.code == errors.FAILED_PRECONDITION:
        failed = error_details_pb2.PreconditionFailure()
        failed.violations.add(type=refusal.reason, subject=meta.get("name", ""), description=str(refusal))
        details.append(failed)
    details.append(error_details_pb2.LocalizedMessage(locale="zh-CN", message=refusal.localized))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        found.details.append(packed)
    return found


class GrpcHandler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The adapter to grpcio: bytes in, bytes out."""

    def __init__(self, chain: Chain) -> None:
        self._handlers = {path: self._unary(chain, path) for path in chain.endpoints}

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)

    @staticmethod
    def _unary(chain: Chain, path: str) -> Any:
        def behave(raw: bytes, context: Any) -> bytes:
            headers = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
            try:
                return chain.answer(Incoming(path, raw, headers, context.time_remaining()))
            except errors.Refusal as refusal:
                answered = rpc_status.to_status(status(refusal))
            context.abort_with_status(answered)
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(behave)
