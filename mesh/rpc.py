"""The one chain that every call goes through, from raw bytes on — trace, identity, decode, shape,
ownership, handler, commit, mask, errors. Separate from the handlers, so that they know no transport, and
from the transport, so that a second one calls the same chain."""

import dataclasses
import datetime
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from mesh import (
    audit,
    callers,
    calls,
    contract,
    database,
    deadlines,
    errors,
    identity,
    keys,
    metrics,
    once,
    privacy,
    resources,
    shapes,
    telemetry,
    wire,
)
from mesh.changes import Acting

ATTEMPTS = 5
DELIVERED_KEPT = datetime.timedelta(days=60)
"""How much longer than others the answer to a call is kept that the province may deliver again."""
LEAST_TIME_S = 0.02
log = logging.getLogger(__name__)
Handler = Callable[[Any, calls.Call], Any]
"""(request, call) → answer; a method that streams takes, or gives, an iterator instead."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One method as it is served. `store` is None for methods that keep nothing."""

    method: contract.Method
    handler: Handler
    store: Any
    published: Callable[[], None]
    """Says that something was committed."""
    refusals: audit.Refusals
    """Where the domain counts the calls that it refuses."""


@dataclasses.dataclass(slots=True)
class Incoming:
    """What a transport knows of a call. `raw`: bytes, or an iterator of them where the method streams up;
    `remaining`: seconds left, None for no deadline."""

    path: str
    raw: Any
    headers: Mapping[str, str]
    remaining: float | None = None
    told: dict[str, str] = dataclasses.field(default_factory=dict)
    """Headers of the answer."""


@dataclasses.dataclass(slots=True)
class Asking:
    """Who asks, as far as it is known: what a refusal is told with."""

    now: datetime.datetime
    trace: str
    caller: identity.Caller = identity.PUBLIC
    region: str = ""
    record: str = ""
    sender: str = ""
    """The node that passed the call on, or speaks for itself."""
    reference: str = ""
    """How the caller stands in what is kept."""
    asked: datetime.datetime | None = None
    """When the caller asked, where that was long before."""
    passed_to: str = ""
    """The node that it was passed on to, whose own trail tells of it."""
    unreached: errors.Refusal | None = None  # why the owner did not answer, where a copy is to


class Chain:
    """Answers calls."""

    def __init__(
        self,
        *,
        issuers: identity.Issuers,
        rings: keys.Rings,
        region: str,
        node: Any = None,
        directory: Any = None,
        clock: Callable[[], datetime.datetime] = resources.utcnow,
    ) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self._by_request: dict[str, Endpoint] = {}
        self.rings, self._region, self.node, self._clock = rings, region, node, clock
        self.callers = callers.Callers(issuers, rings, directory, region)
        self.routes: Any = None
        """Where calls for other owners go (`mesh.routes.Routes`); None for a node by itself."""
        self._meters: dict[tuple[str, str], Any] = {}

    @property
    def directory(self) -> Any:
        """This node's copy of the directory (`mesh.trust.Directory`); None for a node by itself."""
        return self.callers.directory

    def add(self, endpoint: Endpoint) -> None:
        """Serves a method."""
        self.endpoints[endpoint.method.path] = endpoint
        self._by_request[endpoint.method.request.DESCRIPTOR.full_name] = endpoint

    def endpoint_of(self, request: Message) -> Endpoint:
        """The endpoint that takes requests of this type."""
        return self._by_request[request.DESCRIPTOR.full_name]

    def answer(self, incoming: Incoming) -> Any:
        """The answer's bytes; an iterator of them where the method streams down. Raises a Refusal, and
        nothing else."""
        endpoint = self.endpoints[incoming.path]
        span = telemetry.Span(endpoint.method.name, incoming.headers.get("traceparent", ""))
        trace = span.traceparent
        asking = Asking(self._clock(), trace, region=self._region)
        begun, code, until = time.perf_counter(), "OK", deadlines.after(incoming.remaining)
        try:
            with deadlines.keeping(until):
                answer = self._answer(endpoint, incoming, asking)
            if endpoint.method.streams_out:
                return self._stream(answer, trace, until)
            return answer.SerializeToString()
        except errors.Refusal as refusal:
            code = refusal.reason
            self._note(endpoint, asking, refusal)
            raise
        except Exception as fault:
            code = "INTERNAL"
            raise self._internal(fault, endpoint.method.path, trace) from fault
        finally:
            self._count(endpoint.method, code, time.perf_counter() - begun)
            span.end(code)

    def _count(self, method: contract.Method, code: str, spent: float) -> None:
        key = (method.path, code)
        known = self._meters.get(key)
        if known is None:  # a reason is one of an enum's: there are few
            domain = method.path.split(".")[1]
            known = self._meters[key] = (
                metrics.calls.labels(domain, method.name, code), metrics.seconds.labels(domain, method.name)
            )  # fmt: skip
        known[0].inc()
        known[1].observe(spent)

    def _internal(self, fault: Exception, path: str, trace: str) -> errors.Internal:
        trace_id = telemetry.trace_id(trace)
        log.error("a call failed", exc_info=fault, extra={"about": {"path": path, "trace_id": trace_id}})
        return errors.Internal(trace_id=trace_id)

    def _stream(self, answers: Iterator[Message], trace: str, until: float | None) -> Iterator[bytes]:
        try:
            while True:
                with deadlines.keeping(until):
                    answer = next(answers, None)
                if answer is None:
                    return
                yield answer.SerializeToString()
        except errors.Refusal:
            raise
        except Exception as fault:
            raise self._internal(fault, "a stream", trace) from fault

    def _note(self, endpoint: Endpoint, asking: Asking, refusal: errors.Refusal) -> None:
        """Counts a refused call for the audit trail."""
        if endpoint.store is not None and not asking.passed_to:
            caller, region = asking.caller, asking.region
            actor = self.callers.reference(caller, endpoint.store, region)
            endpoint.refusals.add(
                {"region": region, "actor": actor,
                 "deputy": caller.deputy, "organisation": caller.organisation, "name": asking.record,
                 "method": endpoint.method.name, "result": refusal.reason}
            )  # fmt: skip

    def _answer(self, endpoint: Endpoint, incoming: Incoming, asking: Asking) -> Any:
        if incoming.remaining is not None and incoming.remaining < LEAST_TIME_S:
            raise errors.DeadlineExceeded
        self.callers.settle(endpoint, incoming, asking)
        deputy = callers.ACTING_FOR in incoming.headers and endpoint.store is not None
        if not deputy:  # who stands in for whom, the owner of the record knows
            identity.permit(endpoint.method, asking.caller, None)
        request, more = self._asked(endpoint.method, incoming.raw)
        if more is not None:
            incoming = dataclasses.replace(incoming, raw=more)
        if self.routes is not None:
            named = getattr(request, endpoint.method.parent, "") if endpoint.method.parent else ""
            asking.reference = self.callers.reference(asking.caller, endpoint.store, asking.region)
            if (answer := self.routes.elsewhere(endpoint, incoming, asking, named)) is not None:
                return answer
        if deputy:
            self.callers.stand_in(endpoint, incoming, asking)
        try:
            return self._perform(endpoint, request, asking, more)
        except errors.NotOwnedHere as frozen:
            owned = endpoint.store.grants.owned(asking.region)
            if self.routes is None or endpoint.method.of_nodes or owned:
                raise
            # it began to move while this call was under way, and nothing was written
            raise errors.Unavailable(what=f"the owner of {asking.region}", delay=2.0) from frozen
        except errors.NotFound as missing:  # of a copy that may only not have it yet
            raise asking.unreached or missing from None

    def _asked(self, method: contract.Method, raw: Any) -> tuple[Any, Iterator[bytes] | None]:
        """A request; where the method streams up the first one, and the bytes of all."""
        if not method.streams_in:
            return self._request(method, raw), None
        first = next(raw, None)
        if first is None:
            raise errors.Invalid("(stream)", "ended before its first message")
        request = self._request(method, first)
        if method.parent and not getattr(request, method.parent):
            raise errors.Invalid(method.parent, "is required in the first message")
        return request, itertools.chain([first], raw)

    def _request(self, method: contract.Method, raw: bytes) -> Any:
        """A request, decoded and of the right shape."""
        try:
            request = method.request.FromString(raw)
        except DecodeError as fault:
            raise wire.explain(raw, method.request.DESCRIPTOR) from fault
        request.DiscardUnknownFields()  # what no annotation describes is neither kept nor announced
        wire.settle(request, contract.shape(method.request.DESCRIPTOR), raw)
        for path, of in method.given:
            for part in contract.at(request, path):
                contract.clear_output_only(part, of)
        masked = method.given[0][0][0] if "update_mask" in method.request_fields else ""
        shapes.check(request, spared=masked)  # a part of a record is looked at in its place
        return request

    def perform(self, request: Any, asking: Asking) -> Any:
        """Runs a decoded and valid request of any method, and commits it."""
        endpoint = self.endpoint_of(request)
        asking = dataclasses.replace(asking)
        try:
            identity.permit(endpoint.method, asking.caller, None)
            return self._perform(endpoint, request, asking)
        except errors.Refusal as refusal:
            self._note(endpoint, asking, refusal)
            raise

    def _perform(self, endpoint: Endpoint, request: Any, asking: Asking, more: Any = None) -> Any:
        """The masked answer. `more`: the bytes of all messages, where the method streams up."""
        method, store = endpoint.method, endpoint.store
        if method.parent and (named := getattr(request, method.parent)):
            asking.region, asking.record = resources.region_in(named), named
        caller, region = asking.caller, asking.region
        identity.permit(method, caller, identity.Place(region=region))
        reference = self.callers.reference(caller, store, region)
        acting = Acting(
            caller, reference, method.name, asking.now, trace=asking.trace,
            request_id="" if method.read_only else getattr(request, "request_id", ""),
            purpose=getattr(request, "purpose", ""), asked=asking.asked or asking.now,
        )  # fmt: skip
        kept = DELIVERED_KEPT if asking.sender and method.deferrable else None
        answers = (
            once.Once(store, acting, method, request, region=region, longer=kept)
            if acting.request_id
            else None
        )
        services, broken = Services(self, asking), list[str]()
        attempts = ATTEMPTS if more is None else 1  # what was streamed up is gone
        for _ in range(attempts):
            if answers is not None and (answered := answers.answered()) is not None:
                return answered  # asked each time: a repetition may have overtaken the first
            if not method.read_only and not method.of_nodes:
                store.grants.of(region)
            call = calls.Call(
                store, method=method, acting=acting, etag=getattr(request, "etag", ""), region=region,
                services=services,
            )  # fmt: skip
            answer = endpoint.handler(
                request if more is None else (self._request(method, raw) for raw in more), call
            )
            shown = _shown(method, answer)
            try:
                if self._commit(endpoint, call, answers, shown):
                    return shown
            except database.Broken as fault:  # by what was read, it may be: that can have changed
                broken.append(str(fault))
        if len(broken) == attempts and len(set(broken)) == 1:
            raise call.changes.broken(broken[0])
        raise errors.Conflict(name=str(getattr(request, method.parent, "the record")))

    @staticmethod
    def _commit(endpoint: Endpoint, call: calls.Call, answers: once.Once | None, shown: Any) -> bool:
        """Commits what a call handed over; False when it has to run again."""
        store = endpoint.store
        commit = call.changes.commit(*(answers.kept(shown),) if answers is not None else ())
        if commit is None:
            if endpoint.method.reveals:
                raise AssertionError(f"{endpoint.method.name} reveals and leaves no trace in the audit trail")
            return True
        try:
            store.commit(commit)
        except database.Moved:
            return False
        except database.Disowned:
            store.grants.read()
            return False
        except database.Broken:
            raise
        except database.Gone:
            store.kept_files.clear()
            return False
        except database.Taken as fault:
            if call.changes.created() and (answers is None or answers.answered() is None):
                raise errors.AlreadyExists(name=call.changes.created()) from fault
            return False
        endpoint.published()
        return True


class Services(NamedTuple):
    """What handlers of the plumbing itself may ask of the process they run in."""

    chain: Chain
    asking: Asking

    @property
    def node(self) -> Any:
        return self.chain.node

    def perform(self, request: Message) -> Any:
        """Runs a request by itself, as its caller, with a commit of its own."""
        return self.chain.perform(request, self.asking)


def _shown(method: contract.Method, answer: Any) -> Any:
    """The answer as the caller gets it."""
    if method.reveals or method.streams_out:
        return answer
    if not method.read_only:
        return masked(answer)
    privacy.mask(answer, resources.shape_of(answer))  # nothing of it is stored
    return answer


def masked(message: Message) -> Message:
    """The message with personal fields masked; a copy, because the original is what gets stored."""
    of = resources.shape_of(message)
    if not privacy.touches(of):
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    privacy.mask(copy, of)
    return copy
