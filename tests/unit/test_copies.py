"""What the receiving side takes of a batch before it looks at any row, without a database."""

import zlib

import pytest

from mesh import copies
from village.mesh.v1 import link_pb2 as pb


def rows(*numbers: int) -> list[pb.LogRow]:
    return [pb.LogRow(number=number, name="x") for number in numbers]


def packed(*numbers: int) -> bytes:
    return zlib.compress(pb.LogRows(rows=rows(*numbers)).SerializeToString())


class TestOrder:
    @pytest.mark.parametrize(
        ("numbers", "before"), [((), 0), ((), 9), ((1,), 0), ((1, 2, 3), 0), ((8, 9), 7)]
    )
    def test_that_follows_is_taken(self, numbers: tuple[int, ...], before: int) -> None:
        copies.follow(rows(*numbers), before)

    @pytest.mark.parametrize(
        ("numbers", "before"),
        [
            ((2,), 0), ((1, 3), 0), ((1, 1), 0), ((1, 2, 2, 3), 0), ((2, 1), 0), ((7, 8), 7), ((9,), 7),
            ((0,), 0), ((-1,), 0), ((1,), 7),
        ],
    )  # fmt: skip
    def test_with_a_number_missing_or_twice_is_refused(self, numbers: tuple[int, ...], before: int) -> None:
        with pytest.raises(copies.BadBatch, match="belongs"):
            copies.follow(rows(*numbers), before)


class TestUnpacked:
    def test_is_what_was_packed(self) -> None:
        assert [row.number for row in copies.unpacked(packed(1, 2, 3))] == [1, 2, 3]
        assert copies.unpacked(b"") == []
        assert copies.unpacked(zlib.compress(b"")) == []

    @pytest.mark.parametrize(
        "raw",
        [
            b"x", b"\x00" * 40, packed(1, 2)[2:], b"\x1f\x8b" + packed(1), zlib.compress(b"\xff" * 40),
            packed(*range(1, 40))[:-30], packed(1, 2, 3)[:-1], packed(1)[:2], packed(1) + b"x",
        ],
    )  # fmt: skip
    def test_refuses_garbage_and_what_breaks_off(self, raw: bytes) -> None:
        with pytest.raises(copies.BadBatch):
            copies.unpacked(raw)

    def test_refuses_a_bomb_without_unpacking_it(self) -> None:
        most = copies.UNPACKED
        inside = pb.LogRows(rows=[pb.LogRow(number=1, payload=bytes(most + 1))]).SerializeToString()
        with pytest.raises(copies.BadBatch, match="larger"):
            copies.unpacked(zlib.compress(inside))
        bomb = zlib.compress(bytes(64 * most), 9)
        with pytest.raises(copies.BadBatch, match="larger"):
            copies.unpacked(bomb)

    def test_takes_as_much_as_may_be(self) -> None:
        frame = len(pb.LogRows(rows=[pb.LogRow(payload=bytes(copies.UNPACKED - 100))]).SerializeToString())
        room = copies.UNPACKED - 100 + copies.UNPACKED - frame
        inside = pb.LogRows(rows=[pb.LogRow(payload=bytes(room))]).SerializeToString()
        assert len(inside) == copies.UNPACKED
        assert len(copies.unpacked(zlib.compress(inside))) == 1
