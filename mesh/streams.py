"""Calls that stream, over a line that carries single messages: piece by piece, one under way, so that other
calls overtake and a file is never whole in memory. Separate from the lines, which only carry the pieces."""

import contextlib
import dataclasses
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mesh import deadlines, errors, rpc
from mesh.transport import Pool
from village.mesh.v1 import link_pb2 as pb

PIECE_BYTES, MESSAGE_BYTES = 48 * 1024, 4 * 1024 * 1024
PATIENCE_S, LAST_S = 15.0, 60.0
"""How long a piece is waited for, and the answer to all of them, for which a file is cleaned and kept."""
IDLE_S = 120.0
"""How long a stream may be silent: who sends or reads it may have a poor line too."""
Answer = tuple[Any, dict[str, str]]
"""The answer's bytes, or an iterator of them, and its headers."""
Ask = Callable[[pb.LinkCall, str, float], pb.LinkAnswer]
"""Sends a piece to a process, to any with an empty name, and waits for what it answers."""


class Passing:
    """A stream that is passed on to another node. `turn`: one piece is under way on a line, of whichever
    stream."""

    def __init__(
        self, ask: Ask, turn: threading.Lock, *, path: str, headers: Mapping[str, str],
        remaining: float | None,
    ) -> None:  # fmt: skip
        self._ask, self._turn, self._until = ask, turn, deadlines.after(remaining)
        self._path, self._headers = path, headers
        self._stream, self._process, self._number = uuid.uuid4().hex, "", 0

    def up(self, raws: Iterator[bytes]) -> Answer:
        """Sends messages up; the answer, which may come before all are sent."""
        try:
            for raw in raws:
                for at in range(0, len(raw) or 1, PIECE_BYTES):
                    end = at + PIECE_BYTES
                    answer = self._exchange(raw[at:end], part=end < len(raw))
                    if not answer.open:
                        return answer.response, dict(answer.headers)
            answer = self._exchange(course=pb.LinkCall.COURSE_ENDED)
        except BaseException:
            self._drop()
            raise
        return answer.response, dict(answer.headers)

    def down(self, raw: bytes) -> Answer:
        """Asks for what comes down; an iterator of messages."""
        first = self._exchange(raw)
        return self._messages(first), dict(first.headers)

    def _messages(self, answer: pb.LinkAnswer) -> Iterator[bytes]:
        whole = bytearray()
        try:
            while answer.open:
                if (message := _whole(whole, answer.response, answer.more)) is not None:
                    yield message
                answer = self._exchange()
        finally:
            if answer.open:
                self._drop()

    def _exchange(self, piece: bytes = b"", *, part: bool = False, course: Any = 0) -> pb.LinkAnswer:
        """What the other node answers to a piece. Unavailable when nothing of the stream was delivered,
        DeadlineExceeded when that is not known."""
        left = LAST_S if self._until is None else max(self._until - time.monotonic(), 0.001)
        patience = min(left, LAST_S if course else PATIENCE_S)
        call = pb.LinkCall(
            path=self._path, headers={} if self._number else self._headers, request=piece, part=part,
            timeout_ms=0 if self._until is None else int(left * 1000), stream=self._stream,
            number=self._number, course=course,
        )  # fmt: skip
        mine = not course and self._turn.acquire(timeout=patience)
        try:
            if not (mine or course):
                raise errors.Overloaded(what="the line")
            answer = self._ask(call, self._process, patience)
        except errors.Unavailable:
            if self._number:
                raise errors.DeadlineExceeded from None
            raise
        finally:
            if mine:
                self._turn.release()
        self._number, self._process = self._number + 1, answer.process
        return answer

    def _drop(self) -> None:
        """Tells the other node that nobody waits any more; it finds out by itself otherwise."""
        dropped = pb.LinkCall(path=self._path, stream=self._stream, course=pb.LinkCall.COURSE_DROPPED)
        if self._number:
            with contextlib.suppress(errors.Refusal):
                self._ask(dropped, self._process, 1.0)


class Served:
    """The streams of other nodes that this process has in hand."""

    def __init__(self, chain: rpc.Chain, threads: int) -> None:
        self._chain, self._pool, self._most = chain, Pool(threads, "stream"), 4 * threads
        self._open: dict[tuple[str, str], _Taking | _Giving] = {}
        self.process = uuid.uuid4().hex

    def take(
        self, sender: str, call: pb.LinkCall, headers: Mapping[str, str], told: dict[str, str]
    ) -> pb.LinkAnswer:
        """Takes a piece of a stream, or gives the next one. `told`: where the answer's headers go."""
        key = sender, call.stream
        for old in [k for k, s in list(self._open.items()) if time.monotonic() - s.at > IDLE_S]:
            self._drop(old)
        if call.course == pb.LinkCall.COURSE_DROPPED:
            return self._drop(key)
        if call.number == 0:
            if len(self._open) >= self._most or self._pool.full:
                raise errors.Overloaded(what="the service")
            remaining = call.timeout_ms / 1000 if call.timeout_ms else None
            incoming = rpc.Incoming(call.path, call.request, headers, remaining, told)
            up = self._chain.endpoints[call.path].method.streams_in
            self._open[key] = (
                _Taking(self._chain, incoming, self._pool) if up else _Giving(self._chain, incoming)
            )
        found = self._open.get(key)
        if found is None or found.number != call.number:
            raise errors.DeadlineExceeded  # it was dropped here, or this process has been started since
        found.number, found.at = found.number + 1, time.monotonic()
        answer = pb.LinkAnswer()
        try:
            answer = found.next(call)
        finally:
            if not answer.open:
                self._drop(key)
        answer.process = self.process
        answer.headers.update(found.told)
        return answer

    def _drop(self, key: tuple[str, str]) -> pb.LinkAnswer:
        if (found := self._open.pop(key, None)) is not None:
            found.drop()
        return pb.LinkAnswer()

    def close(self) -> None:
        """Drops them all."""
        for key in list(self._open):
            self._drop(key)
        self._pool.shutdown(wait=True)


class _Taking:
    """A stream that comes up, while a thread runs the method that takes it."""

    def __init__(self, chain: rpc.Chain, incoming: rpc.Incoming, pool: Pool) -> None:
        self.number, self.at, self.told = 0, time.monotonic(), incoming.told
        self._pieces: queue.Queue[pb.LinkCall] = queue.Queue(1)
        self._done = pool.submit(chain.answer, dataclasses.replace(incoming, raw=self._messages()))
        self._done.add_done_callback(lambda _: self._room())

    def next(self, call: pb.LinkCall) -> pb.LinkAnswer:
        """Hands a piece to the method; its answer when it has given one."""
        try:
            self._pieces.put(call, timeout=PATIENCE_S)
            if call.course or self._done.done():
                return pb.LinkAnswer(response=self._done.result(LAST_S))
        except (queue.Full, TimeoutError):
            raise errors.DeadlineExceeded from None
        return pb.LinkAnswer(open=True)

    def drop(self) -> None:
        self._room()
        with contextlib.suppress(queue.Full):
            self._pieces.put_nowait(pb.LinkCall(course=pb.LinkCall.COURSE_DROPPED))

    def _room(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._pieces.get_nowait()

    def _messages(self) -> Iterator[bytes]:
        whole = bytearray()
        while True:
            try:
                call = self._pieces.get(timeout=IDLE_S)
            except queue.Empty:
                raise errors.DeadlineExceeded from None
            if call.course == pb.LinkCall.COURSE_ENDED:
                return
            if call.course:
                raise errors.DeadlineExceeded
            if (message := _whole(whole, call.request, call.part)) is not None:
                yield message


class _Giving:
    """A stream that goes down."""

    def __init__(self, chain: rpc.Chain, incoming: rpc.Incoming) -> None:
        self.number, self.at, self.told = 0, time.monotonic(), incoming.told
        self._answers, self._rest = chain.answer(incoming), b""

    def next(self, _call: pb.LinkCall) -> pb.LinkAnswer:
        """The next piece."""
        if not self._rest:
            found = next(self._answers, None)
            if found is None:
                return pb.LinkAnswer()
            self._rest = found
        piece, self._rest = self._rest[:PIECE_BYTES], self._rest[PIECE_BYTES:]
        return pb.LinkAnswer(response=piece, more=bool(self._rest), open=True)

    def drop(self) -> None:
        with contextlib.suppress(ValueError):  # its next piece is being made at this moment
            self._answers.close()


def _whole(before: bytearray, piece: bytes, more: bool) -> bytes | None:
    """The message, when this was its last piece. Invalid when it is larger than one may be."""
    before += piece
    if len(before) > MESSAGE_BYTES:
        raise errors.Invalid("(message)", f"is larger than {MESSAGE_BYTES} bytes")
    if more:
        return None
    message = bytes(before)
    before.clear()
    return message
