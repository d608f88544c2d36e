"""Streams over a line that carries single messages, both ends in one process: what becomes of one whose
caller is gone, whose pieces come twice or to another process, and who waits for whom."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mesh import errors, rpc, streams
from tests.waiting import until
from village.mesh.v1 import link_pb2

UP, DOWN = "/village.x.v1.S/Up", "/village.x.v1.S/Down"
PIECE = streams.PIECE_BYTES
MESSAGES = [b"", b"a", b"b" * PIECE, b"c" * (3 * PIECE + 1)]


class Chain:
    """Serves a method that streams up and one that streams down."""

    def __init__(self) -> None:
        self.endpoints = {
            path: SimpleNamespace(method=SimpleNamespace(streams_in=path == UP)) for path in (UP, DOWN)
        }
        self.taken: list[bytes] = []
        self.ended: list[str] = []
        self.enough = 100

    def answer(self, incoming: rpc.Incoming) -> Any:
        incoming.told["x-village-served-by"] = "360423"
        return self._up(incoming.raw) if incoming.path == UP else self._down()

    def _up(self, raws: Iterator[bytes]) -> bytes:
        try:
            for raw in raws:
                self.taken.append(raw)
                if len(self.taken) >= self.enough:
                    raise errors.Refused
        except errors.Refusal as refusal:
            self.ended.append(refusal.reason)
            raise
        return b"done"

    def _down(self) -> Iterator[bytes]:
        try:
            yield from MESSAGES
        finally:
            self.ended.append("closed")


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def served(chain: Chain) -> Iterator[streams.Served]:
    made = streams.Served(chain, 2)  # type: ignore[arg-type]
    yield made
    made.close()


def passing(
    served: streams.Served, path: str, spoil: Callable[[Any], object] = id, remaining: float = 20
) -> streams.Passing:
    """A stream to the other end; `spoil` does to each piece what a line may do."""

    def ask(call: link_pb2.LinkCall, _process: str, _timeout: float) -> link_pb2.LinkAnswer:
        spoil(call)
        return served.take("360000", call, dict(call.headers), {})

    return streams.Passing(ask, threading.Lock(), path=path, headers={}, remaining=remaining)


class TestUp:
    def test_brings_every_message_as_it_was(self, chain: Chain, served: streams.Served) -> None:
        answer, told = passing(served, UP).up(iter(MESSAGES))
        assert (answer, chain.taken) == (b"done", MESSAGES)
        assert told == {"x-village-served-by": "360423"}
        assert not served._open

    def test_ends_with_a_refusal_before_all_is_sent(self, chain: Chain, served: streams.Served) -> None:
        chain.enough, given = 2, []
        with pytest.raises(errors.Refused):
            passing(served, UP).up(given.append(n) or b"x" for n in range(1000))  # type: ignore[func-returns-value]
        assert len(given) < 8
        assert not served._open

    def test_whose_sender_is_gone_is_dropped(self, chain: Chain, served: streams.Served) -> None:
        def breaking() -> Iterator[bytes]:
            yield b"a"
            raise ConnectionError

        with pytest.raises(ConnectionError):
            passing(served, UP).up(breaking())
        until(lambda: chain.ended == ["DEADLINE_EXCEEDED"])
        assert not served._open

    @pytest.mark.parametrize("twice", [False, True])
    def test_that_another_process_has_in_hand_may_have_been_done(
        self, served: streams.Served, twice: bool
    ) -> None:
        def spoil(call: Any) -> None:
            if call.number == 2:
                call.number = 1 if twice else 9

        with pytest.raises(errors.DeadlineExceeded):
            passing(served, UP, spoil).up(iter([b"a"] * 9))
        assert not served._open

    def test_of_which_nothing_arrived_was_not_done(self, served: streams.Served) -> None:
        def away(call: Any) -> None:
            if call.number == lost:
                raise errors.Unavailable(what="the node")

        for lost, refusal in ((0, errors.Unavailable), (3, errors.DeadlineExceeded)):
            with pytest.raises(refusal):
                passing(served, UP, away).up(iter([b"a"] * 9))

    def test_of_a_message_that_is_too_large_is_refused(self, served: streams.Served) -> None:
        with pytest.raises(errors.Invalid):
            passing(served, UP).up(iter([bytes(streams.MESSAGE_BYTES + 1)]))

    def test_waits_for_its_turn_no_longer_than_its_caller(self, served: streams.Served) -> None:
        waiting = passing(served, UP, remaining=0.1)
        with waiting._turn, pytest.raises(errors.Overloaded):
            waiting.up(iter([b"a"]))


class TestDown:
    def test_brings_every_message_as_it_was(self, chain: Chain, served: streams.Served) -> None:
        answers, told = passing(served, DOWN).down(b"request")
        assert told == {"x-village-served-by": "360423"}
        assert list(answers) == MESSAGES
        assert (chain.ended, served._open) == (["closed"], {})

    def test_whose_reader_is_gone_is_dropped(self, chain: Chain, served: streams.Served) -> None:
        answers, _ = passing(served, DOWN).down(b"")
        next(answers)
        answers.close()
        assert (chain.ended, served._open) == (["closed"], {})

    def test_is_given_to_whom_it_was_begun_for_only(self, served: streams.Served) -> None:
        call = link_pb2.LinkCall(path=DOWN, stream="s")
        served.take("360000", call, {}, {})
        call.number = 1
        with pytest.raises(errors.DeadlineExceeded):
            served.take("360424", call, {}, {})

    def test_is_not_begun_by_more_than_can_be_served(self, served: streams.Served) -> None:
        for n in range(8):
            served.take("360000", link_pb2.LinkCall(path=DOWN, stream=f"{n}"), {}, {})
        with pytest.raises(errors.Overloaded):
            served.take("360000", link_pb2.LinkCall(path=DOWN, stream="9"), {}, {})

    def test_that_was_silent_for_long_makes_room(
        self, served: streams.Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served.take("360000", link_pb2.LinkCall(path=DOWN, stream="old"), {}, {})
        monkeypatch.setattr(streams, "IDLE_S", -1.0)
        served.take("360000", link_pb2.LinkCall(path=DOWN, stream="new"), {}, {})
        assert [stream for _, stream in served._open] == ["new"]
