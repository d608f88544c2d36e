"""Calls between nodes: up to the province by gRPC, down to a county as requests over the broker's line, which
the county has dialled. Separate from the chain, which they carry calls to, and from who owns what."""

import asyncio
import collections
import concurrent.futures
import contextlib
import datetime
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from grpc_status import rpc_status
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh import bus, contract, deadlines, errors, regions, resources, rpc, statuses, streams, trust
from mesh.callers import NODE
from mesh.transport import Pool
from village.mesh.v1 import link_pb2

DIRECTORY = "village.directory"
OWN = "own"
"""What answers from this node to itself come as: nobody listens for them at the other end of its line."""
PART_BYTES = 256 * 1024
MOST_BYTES = 900_000
PATIENCE_S = 15.0
_NOT_SENT = ("connection failure", "no healthy upstream", "failed to connect", "overflow", "no route")
_NOT_PASSED = ("connection", "host", "te", "user-agent", "content-type", "grpc-", "x-forwarded",
               "x-request-id", "x-envoy", "accept", ":", NODE)  # fmt: skip
_NOT_TRUSTED = trust.NodeNotTrusted(why="").reason
log = logging.getLogger(__name__)


class NotDelivered(errors.Unavailable):
    """The owner cannot be reached; nothing was done."""

    en = "{what} cannot be reached; nothing was done"
    zh = "负责该地区的节点暂时无法连接"


class NotBelieved(NotDelivered):
    """The other node does not take this one's word, and says why; nothing was done."""

    en = "{what} does not take this node's word: {why}"
    zh = "对方节点不接受本节点的请求"

    def __init__(self, *, what: str, why: str) -> None:
        errors.Refusal.__init__(self, what=what, why=why)
        self.delay = 60.0


def subject(kind: str, region: str, last: str) -> str:
    """`village.call.36.04.23.habitat`."""
    return f"village.{kind}.{regions.tokens(region)}.{last}"


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a call that go with it to another node."""
    return {k: v for k, v in headers.items() if not k.startswith(_NOT_PASSED)}


Answer = tuple[bytes, dict[str, str]]
"""An answer's bytes and headers."""


class Links:
    """A node's lines. `domains`: whose calls are answered here."""

    def __init__(
        self,
        directory: trust.Directory,
        chain: rpc.Chain,
        *,
        broker: str,
        uplink: str,
        domains: Sequence[str],
        threads: int,
    ) -> None:
        self.directory, self._chain, self._broker, self._domains = directory, chain, broker, domains
        self._pool, self._pieces = Pool(threads, "link"), Pool(threads, "piece")
        self._streams = streams.Served(chain, threads)
        self._turns: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        self._channel = self._dial(uplink) if uplink else None
        self._waiting: dict[str, asyncio.Queue[Any]] = {}
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stubs: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.told = asyncio.Event()
        """Set when the province says that the directory has changed."""
        self.marked: Callable[[str, str], None] = lambda _node, _domain: None
        """Called when a node says that a log of its domain has grown."""
        self.heard: dict[str, float] = {}
        """By node, when it last said anything by itself; by `time.monotonic`."""
        self.trouble = ""
        """Why the province did not answer when it was last asked for news; empty when it did."""
        self.ahead: datetime.timedelta | None = None
        """How far this node's clock was ahead of the province's then."""

    # asking

    def call(self, node: str, path: str, raw: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        """Calls a method at a node, in this node's name; at this one too, in whichever of its processes.
        Unavailable when it was certainly not delivered, DeadlineExceeded when that is not known, Passed with
        what it refused with."""
        signed = self._signed(node, headers)
        if self._channel is not None and node != self.directory.region:
            return self._up(path, raw, signed, timeout)
        return self._waited(self._down(node, path, raw, signed, timeout), node, timeout)

    def stream(
        self, node: str, method: contract.Method, raw: Any, headers: Mapping[str, str],
        remaining: float | None,
    ) -> streams.Answer:  # fmt: skip
        """Calls a method that streams, in whichever direction; the same refusals. What comes down may break
        off with one."""
        signed = self._signed(node, headers)
        if remaining is not None and remaining > deadlines.LONGEST_S:
            remaining = None
        if node == self.directory.region:  # what was taken for another owner, before this one became it
            return self._here(method.path, raw, signed, remaining)
        if self._channel is not None and method.streams_in:
            return self._up(method.path, raw, signed, remaining, kind="stream_unary")
        if self._channel is not None:
            call = self._channel.unary_stream(method.path)(
                raw, timeout=remaining, metadata=tuple(signed.items())
            )
            return self._came(call), _told(call.initial_metadata())
        passing = streams.Passing(
            functools.partial(self._piece, node), self._turns[node], path=method.path, headers=headers,
            remaining=remaining,
        )  # fmt: skip
        return passing.up(raw) if method.streams_in else passing.down(raw)

    def _piece(self, node: str, call: link_pb2.LinkCall, process: str, timeout: float) -> link_pb2.LinkAnswer:
        call.headers[NODE] = self.directory.token(node, resources.utcnow())
        if process and not process.isalnum():
            raise NotDelivered(what=f"node {node}")
        last = f"{call.path.split('.')[1]}.{process or 'stream'}"
        raw, answer = self._waited(self._asked(node, last, call, timeout), node, timeout)
        answer.response = raw
        return answer

    def _came(self, call: Any) -> Iterator[bytes]:
        try:
            yield from call
        except grpc.RpcError as fault:
            raise self._refused(fault) from fault
        finally:
            call.cancel()

    def _waited(self, work: Coroutine[Any, Any, Any], node: str, timeout: float) -> Any:
        """What the lines' own loop makes of it."""
        if self._loop is None:
            work.close()
            raise NotDelivered(what=f"node {node}")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout + 1)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise errors.DeadlineExceeded from None

    async def ask(
        self, node: str, path: str, raw: bytes, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """The same from the lines' own loop."""
        signed = self._signed(node, headers)
        if self._channel is not None:
            return await asyncio.to_thread(self._up, path, raw, signed, timeout)
        return await self._down(node, path, raw, signed, timeout)

    def _signed(self, node: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers with this node's proof, if the other one is to be called from here at all."""
        moment, here = resources.utcnow(), node == self.directory.region
        entry = self.directory.view.nodes.get(node)
        known = entry is not None and not entry.revoked and not self.directory.expired(moment)
        if not here and not (known and self.directory.parent() in ("", node)):
            raise NotDelivered(what=f"node {node}", delay=60.0)
        return {**headers, NODE: self.directory.token(node, moment)}

    def _here(self, path: str, raw: Any, headers: Mapping[str, str], timeout: float | None) -> Any:
        incoming = rpc.Incoming(path, raw, headers, timeout)
        try:
            return self._chain.answer(incoming), incoming.told
        except errors.Refusal as refusal:
            raise errors.Passed(statuses.status(refusal), incoming.told) from refusal

    @staticmethod
    def _dial(target: str) -> Any:
        options = [
            ("grpc.max_receive_message_length", 16 * 1024 * 1024),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.enable_retries", 0),
        ]
        return grpc.insecure_channel(target, options=options)

    def _up(
        self, path: str, raw: Any, headers: Mapping[str, str], timeout: float | None,
        kind: str = "unary_unary",
    ) -> Answer:  # fmt: skip
        with self._lock:
            stub = self._stubs.get(path)
            if stub is None:
                stub = self._stubs[path] = getattr(self._channel, kind)(path)
        try:
            answer, call = stub.with_call(raw, timeout=timeout, metadata=tuple(headers.items()))
        except grpc.RpcError as fault:
            raise self._refused(fault) from fault
        return answer, _told(call.initial_metadata())

    @staticmethod
    def _refused(fault: Any) -> errors.Refusal:
        found = rpc_status.from_call(fault)
        if found is not None and found.details:
            return _passed("the province", found, _told(fault.initial_metadata()))
        said = (fault.details() or "").lower()
        if fault.code() == grpc.StatusCode.UNAVAILABLE and any(text in said for text in _NOT_SENT):
            return NotDelivered(what="the province")
        if fault.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
                            grpc.StatusCode.CANCELLED):  # fmt: skip
            return errors.DeadlineExceeded()
        return errors.Passed(status_pb2.Status(code=fault.code().value[0], message=said))

    async def _down(
        self, node: str, path: str, raw: bytes, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        call = link_pb2.LinkCall(path=path, headers=headers, request=raw, timeout_ms=int(timeout * 1000))
        raw, answer = await self._asked(node, path.split(".")[1], call, timeout)
        return raw, dict(answer.headers)

    async def _asked(
        self, node: str, last: str, call: link_pb2.LinkCall, timeout: float
    ) -> tuple[bytes, link_pb2.LinkAnswer]:
        """The answer's bytes, and the last part of it."""
        if self._client is None:
            raise NotDelivered(what=f"node {node}")
        if len(call.request) > MOST_BYTES:
            raise errors.Invalid("(message)", f"is larger than the {MOST_BYTES} bytes that a line takes")
        ticket = uuid.uuid4().hex
        queue = self._waiting[ticket] = asyncio.Queue()
        reply = subject(OWN if node == self.directory.region else "answer", node, ticket)
        try:
            await self._client.publish(subject("call", node, last), call.SerializeToString(), reply=reply)
            parts: list[bytes] = []
            async with asyncio.timeout(timeout):
                while True:
                    message: Msg = await queue.get()
                    if (message.headers or {}).get("Status") == "503":
                        raise NotDelivered(what=f"{last.partition('.')[0]} of node {node}")
                    answer = link_pb2.LinkAnswer.FromString(message.data)
                    if answer.status:
                        status = status_pb2.Status.FromString(answer.status)
                        raise _passed(f"node {node}", status, answer.headers)
                    parts.append(answer.response)
                    if answer.open or not answer.more:
                        return b"".join(parts), answer
        except TimeoutError:
            raise errors.DeadlineExceeded from None
        except DecodeError as fault:
            raise NotDelivered(what=f"node {node}") from fault
        finally:
            del self._waiting[ticket]

    # answering

    async def run(self) -> None:
        """Keeps the lines for ever."""
        self._loop = asyncio.get_running_loop()
        self._client = await bus.connect(self._broker)
        me = self.directory.region
        calls, pieces = (functools.partial(self._called, pool) for pool in (self._pool, self._pieces))
        for domain in self._domains:
            await self._client.subscribe(subject("call", me, domain), queue="node", cb=calls)
            await self._client.subscribe(subject("call", me, f"{domain}.stream"), queue="node", cb=pieces)
            await self._client.subscribe(subject("call", me, f"{domain}.{self._streams.process}"), cb=pieces)
        await self._client.subscribe("village.answer.>", cb=self._answered)
        await self._client.subscribe(subject(OWN, me, ">"), cb=self._answered)
        await self._client.subscribe("village.mark.>", cb=self._mark)
        await self._client.subscribe(DIRECTORY, cb=self._directory)
        try:
            await asyncio.Event().wait()
        finally:
            self._streams.close()
            self._pieces.shutdown(wait=True)
            self._pool.shutdown(wait=True)
            await self._client.close()

    async def _answered(self, message: Msg) -> None:
        queue = self._waiting.get(message.subject.rpartition(".")[2])
        if queue is not None:
            queue.put_nowait(message)

    async def _mark(self, message: Msg) -> None:
        *_, province, city, county, domain = message.subject.split(".")
        node = f"{province}{city}{county}"
        self.heard[node] = time.monotonic()
        self.marked(node, domain)

    async def _directory(self, _message: Msg) -> None:
        self.told.set()

    async def _called(self, pool: Pool, message: Msg) -> None:
        """Takes a call; its answer is made in a thread and sent back in parts."""
        if not message.reply:
            return
        if pool.full:
            await self._reply(message.reply, self._status(errors.Overloaded(what="the service")))
            return
        arrived = time.monotonic()
        future = pool.submit(self._answer, message.data, arrived)
        asyncio.ensure_future(self._finish(message.reply, asyncio.wrap_future(future)))  # noqa: RUF006

    async def _finish(self, reply: str, future: "asyncio.Future[list[link_pb2.LinkAnswer]]") -> None:
        for part in await future:
            await self._reply(reply, part)

    async def _reply(self, reply: str, answer: link_pb2.LinkAnswer) -> None:
        with contextlib.suppress(Exception):  # the line is away: who asked will not wait for ever
            await self._client.publish(reply, answer.SerializeToString())  # type: ignore[union-attr]

    def _answer(self, data: bytes, arrived: float) -> list[link_pb2.LinkAnswer]:
        told: dict[str, str] = {}
        try:
            call = link_pb2.LinkCall.FromString(data)
            headers = dict(call.headers)
            sender = self.directory.sender(headers.get(NODE, ""), resources.utcnow())
            endpoint = self._chain.endpoints.get(call.path)
            if endpoint is None or endpoint.method.streams != bool(call.stream):
                raise errors.NotFound(name=call.path)
            if call.stream:
                return [self._streams.take(sender, call, headers, told)]
            remaining = call.timeout_ms / 1000 - (time.monotonic() - arrived)
            raw = self._chain.answer(rpc.Incoming(call.path, call.request, headers, remaining, told))
        except errors.Refusal as refusal:
            return [self._status(refusal, told)]
        except Exception:  # the broker gave bytes that are no call, or worse
            log.exception("a call over the line failed")
            return [self._status(errors.Internal(trace_id=""))]
        pieces = [raw[at : at + PART_BYTES] for at in range(0, len(raw), PART_BYTES)] or [b""]
        return [
            link_pb2.LinkAnswer(response=piece, headers=told, more=n < len(pieces))
            for n, piece in enumerate(pieces, 1)
        ]

    @staticmethod
    def _status(refusal: errors.Refusal, told: Mapping[str, str] | None = None) -> link_pb2.LinkAnswer:
        return link_pb2.LinkAnswer(status=statuses.status(refusal).SerializeToString(), headers=told)

    # telling

    def tell(self, subject_: str) -> None:
        """Says something to whoever listens, from any thread; lost when the line is away."""
        if self._loop is not None and self._client is not None:
            asyncio.run_coroutine_threadsafe(self._tell(subject_), self._loop)

    async def _tell(self, subject_: str) -> None:
        with contextlib.suppress(Exception):
            await self._client.publish(subject_, b"")  # type: ignore[union-attr]

    def mark(self, domain: str) -> None:
        """Says that a log of a domain of this node has grown."""
        self.tell(subject("mark", self.directory.region, domain))

    def reload(self, system_url: str, *, hang_up: bool) -> None:
        """Makes the broker read its users again. `hang_up`: and take all lines anew."""
        if self._loop is not None and system_url:
            asyncio.run_coroutine_threadsafe(bus.reload(system_url, hang_up=hang_up), self._loop).result(10)

    def close(self) -> None:
        """Hangs up."""
        if self._channel is not None:
            self._channel.close()


def _passed(what: str, status: status_pb2.Status, told: Mapping[str, str]) -> errors.Refusal:
    """What another node refused with; NotBelieved where it refused this node rather than who calls."""
    if statuses.reason(status) == _NOT_TRUSTED:
        return NotBelieved(what=what, why=status.message)
    return errors.Passed(status, told)


def until(remaining: float | None) -> float:
    """How long a call may take at another node; less than what is left here, to answer in time."""
    return max(min(remaining or PATIENCE_S, PATIENCE_S) - 0.05, 0.05)


def _told(metadata: Any) -> dict[str, str]:
    """What an answer says of itself."""
    return {k: v for k, v in metadata or () if k.startswith("x-village-")}
