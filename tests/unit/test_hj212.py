"""HJ 212-2017: the standard's own example, frames in pieces, what is wrong with one, and the answers."""

import random

import pytest

from services.habitat import hj212
from services.habitat.hj212 import BadFrame, Frame, Parts, Reader

OFFICIAL = (
    "QN=20160801085857223;ST=32;CN=1062;PW=100000;MN=010000A8900016F000169DC0;Flag=5;CP=&&RtdInterval=30&&"
)
HOURLY = (
    "QN=20260301080000123;ST=21;CN=2061;PW=123456;MN=360423100201000000WQ0001;Flag=5;CP=&&DataTime=20260301080000;"
    "w01010-Avg=12.4,w01010-Flag=N;w01003-Avg=2.1,w01003-Flag=N;w01001-Avg=7.32,w01001-Flag=N;w01014-Avg=186.0,"
    "w01014-Flag=N;w01009-Avg=8.45,w01009-Flag=N;w01018-Avg=11.2,w01018-Flag=N;w01017-Avg=2.3,w01017-Flag=N&&"
)


def one(raw: bytes) -> Frame | BadFrame:
    (found,) = Reader().feed(raw)
    return found


def altered(**fields: str) -> bytes:
    text = HOURLY
    for name, value in fields.items():
        head, _, rest = text.partition(f"{name}=")
        text = (
            f"{head}{name}={value};{rest.partition(';')[2]}"
            if value is not None
            else head + rest.partition(";")[2]
        )
    return hj212.frame(text)


class TestChecksum:
    def test_is_that_of_the_standard_s_own_example(self) -> None:
        assert len(OFFICIAL) == 101
        assert f"{hj212.crc(OFFICIAL.encode()):04X}" == "1C80"
        assert hj212.frame(OFFICIAL) == f"##0101{OFFICIAL}1C80\r\n".encode()
        assert hj212.frame(HOURLY).endswith(b"&&8EC1\r\n")

    def test_is_not_modbus(self) -> None:
        found = one(f"##0101{OFFICIAL}0759\r\n".encode())
        assert isinstance(found, BadFrame)
        assert found.code == hj212.BAD_CRC


class TestReader:
    def test_finds_frames_in_any_pieces(self) -> None:
        raw, draw = hj212.frame(HOURLY) * 20 + hj212.frame(OFFICIAL), random.Random(7)
        reader, found = Reader(), []
        while raw:
            size = draw.choice([1, 2, 5, 40, 300, 1500])
            found += list(reader.feed(raw[:size]))
            raw = raw[size:]
        assert [f.command for f in found if isinstance(f, Frame)] == [2061] * 20 + [1062]

    @pytest.mark.parametrize(
        "rubbish",
        [b"\x00\xff", b"##", b"##abcd", b"##9999", b"#", b"\r\n\r\n", b"##0319QN=2026\r\n", b"##0005"],
    )
    def test_goes_on_behind_rubbish(self, rubbish: bytes) -> None:
        found = list(Reader().feed(rubbish + b"\r\n" + hj212.frame(HOURLY) + hj212.frame(HOURLY)))
        assert sum(isinstance(f, Frame) for f in found) >= 1
        assert len(found) <= 3

    def test_keeps_little_of_what_never_ends(self) -> None:
        reader = Reader()
        for _ in range(100):
            list(reader.feed(b"x" * 10_000))
        assert len(reader._held) < 10


class TestParse:
    def test_reads_what_a_station_says(self) -> None:
        found = one(hj212.frame(HOURLY))
        assert isinstance(found, Frame)
        assert found.wants_answer
        values = {m.factor: m.value for m in hj212.measured(found)}
        assert values["w01018"] == 11.2
        assert len(values) == 7
        assert {(m.time_ms, m.flag) for m in hj212.measured(found)} == {(1_772_323_200_000, "N")}

    @pytest.mark.parametrize(
        ("raw", "code"),
        [
            (altered(PW="12 45"), hj212.BAD_PW), (altered(MN="x"), hj212.BAD_MN),
            (altered(ST="2"), hj212.BAD_ST),
            (altered(Flag="x"), hj212.BAD_FLAG), (altered(Flag="99"), hj212.BAD_FLAG),
            (altered(Flag="7"), hj212.BAD_FLAG), (altered(QN="2026"), hj212.BAD_QN),
            (altered(CN="20"), hj212.BAD_CN),
            (hj212.frame(HOURLY.removesuffix("&&") + "&"), hj212.UNKNOWN),
            (hj212.frame(HOURLY)[:-6] + b"0000\r\n", hj212.BAD_CRC),
        ],
    )  # fmt: skip
    def test_says_what_is_wrong(self, raw: bytes, code: int) -> None:
        found = one(raw)
        assert isinstance(found, BadFrame)
        assert found.code == code

    def test_takes_devices_of_the_version_of_2005(self) -> None:
        assert isinstance(one(altered(Flag="1")), Frame)

    @pytest.mark.parametrize("content", ["w01018-Avg=1", "DataTime=20261301080000;w01018-Avg=1",
                                         "DataTime=20260301080000;w01018-Avg=x"])  # fmt: skip
    def test_refuses_values_without_time_or_number(self, content: str) -> None:
        found = one(hj212.frame(f"{HOURLY.partition('CP=')[0]}CP=&&{content}&&"))
        assert isinstance(found, Frame)
        with pytest.raises(BadFrame):
            hj212.measured(found)


class TestParts:
    def test_are_put_together_in_whatever_order(self) -> None:
        head = HOURLY.partition("Flag=")[0] + "Flag=7;PNUM=2;PNO={};CP=&&{}&&"
        first = one(hj212.frame(head.format(1, "DataTime=20260301080000;w01018-Avg=11.2,w01018-Flag=N")))
        second = one(hj212.frame(head.format(2, "w01017-Avg=2.3,w01017-Flag=T")))
        assert isinstance(first, Frame)
        assert isinstance(second, Frame)
        parts = Parts()
        assert parts.whole(second) is None
        whole = parts.whole(first)
        assert whole is not None
        assert {(m.factor, m.value, m.flag) for m in hj212.measured(whole)} == {
            ("w01018", 11.2, "N"), ("w01017", 2.3, "T"),
        }  # fmt: skip

    def test_that_never_become_whole_are_forgotten(self) -> None:
        parts = Parts()
        for n in range(1000):
            parts.whole(
                Frame({"MN": str(n), "QN": "1", "CN": "2011", "Flag": "7", "PNUM": "2", "PNO": "1"}, "")
            )
        assert len(parts._held) <= Parts.MOST


class TestAnswer:
    def test_is_that_of_the_standard(self) -> None:
        fields = {"PW": "123456", "MN": "010000A8900016F000169DC0"}
        assert (
            hj212.answer(fields)
            == b"##0066ST=91;CN=9014;PW=123456;MN=010000A8900016F000169DC0;Flag=4;CP=&&&&2340\r\n"
        )

    @pytest.mark.parametrize("code", [*range(1, 10), 100])
    def test_says_why_not(self, code: int) -> None:
        found = one(hj212.answer({"QN": "20260301080000123", "PW": "1", "MN": "010000A8900016F0"}, code))
        assert isinstance(found, Frame)
        assert found.content == f"QnRtn={code}"
