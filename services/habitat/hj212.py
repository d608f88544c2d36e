"""Frames of HJ 212-2017 (污染物在线监控系统数据传输标准): cut from a stream of bytes, checked, answered.
Pure; the listener is `collectors`. The version of 2025 gets a codec of its own when its text is at hand."""

import dataclasses
import datetime
import re
from collections.abc import Iterator

VERSION = "2017"
LONGEST = 1024
"""Characters of a data segment."""
REAL_TIME, MINUTE, HOUR, DAY = 2011, 2051, 2061, 2031
UPLOADS = frozenset({REAL_TIME, MINUTE, HOUR, DAY})
ACCEPTED, REJECTED, BAD_PW, BAD_MN, BAD_ST, BAD_FLAG, BAD_QN, BAD_CN, BAD_CRC, UNKNOWN = (*range(1, 10), 100)
"""What a request is answered with (QnRtn)."""
_BEIJING = datetime.timezone(datetime.timedelta(hours=8))
_FIELD = re.compile(r"(QN|ST|CN|PW|MN|Flag|PNUM|PNO)=([^;&]*);")
_FACTOR = re.compile(r"([A-Za-z0-9]+)-(Rtd|Avg|Flag)=([^,;&]*)")
_DATE = re.compile(r"DataTime=(\d{14})")


class BadFrame(Exception):  # noqa: N818
    """A frame that is not taken, with the code it is answered with."""

    def __init__(self, code: int, why: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.code, self.fields = code, fields or {}


def _table() -> list[int]:
    found = []
    for low in range(256):
        crc = low
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
        found.append(crc)
    return found


_TABLE = _table()


def crc(data: bytes) -> int:
    """The checksum of the standard's annex A: each byte is combined with the register's high byte, which is
    why it is not CRC-16/MODBUS."""
    found = 0xFFFF
    for byte in data:
        low = found >> 8 ^ byte
        found = _TABLE[low]
    return found


def frame(data: str) -> bytes:
    """A data segment as it is sent."""
    raw = data.encode("ascii")
    return b"##%04d%b%04X\r\n" % (len(raw), raw, crc(raw))


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame that is whole and right."""

    fields: dict[str, str]
    content: str

    @property
    def command(self) -> int:
        return int(self.fields["CN"])

    @property
    def wants_answer(self) -> bool:
        return bool(int(self.fields["Flag"]) & 1)

    @property
    def part(self) -> tuple[int, int]:
        """(number of this part, how many there are); (1, 1) of one that is not split."""
        if not int(self.fields["Flag"]) & 2:
            return 1, 1
        return int(self.fields["PNO"]), int(self.fields["PNUM"])


def parse(raw: bytes) -> Frame:
    """A frame from its `##` to its CRC. BadFrame says with which code to answer."""
    data, given = raw[6:-4], raw[-4:]
    head, opened, rest = data.decode("ascii", "replace").partition("CP=&&")
    fields = dict(_FIELD.findall(head))
    if b"%04X" % crc(data) != given.upper():
        raise BadFrame(BAD_CRC, "wrong checksum", fields)
    content, closed, behind = rest.rpartition("&&")
    checks = (
        (BAD_QN, "QN", r"\d{17}"), (BAD_ST, "ST", r"\d{2}"), (BAD_CN, "CN", r"\d{4}"),
        (BAD_PW, "PW", r"[A-Za-z0-9]{1,9}"), (BAD_MN, "MN", r"[A-Za-z0-9]{6,24}"),
        (BAD_FLAG, "Flag", r"\d{1,3}"),
    )  # fmt: skip
    for code, name, pattern in checks:
        if not re.fullmatch(pattern, fields.get(name, "")):
            raise BadFrame(code, f"{name} is missing or wrong", fields)
    if not opened or not closed or behind or _FIELD.sub("", head):
        raise BadFrame(UNKNOWN, "the data segment is not built as it should be", fields)
    flag = int(fields["Flag"])
    if flag >> 2 > 1:  # V5 to V0: 000000 the version of 2005, 000001 that of 2017
        raise BadFrame(BAD_FLAG, f"Flag {flag} is of a version that is not known", fields)
    if flag & 2 and not (
        re.fullmatch(r"\d{1,4}", fields.get("PNUM", "")) and re.fullmatch(r"\d{1,4}", fields.get("PNO", ""))
    ):
        raise BadFrame(BAD_FLAG, "PNUM and PNO are missing though Flag says there are", fields)
    return Frame(fields, content)


class Reader:
    """Cuts frames from bytes as they come, in whatever pieces. What is no frame is skipped up to the next
    `##`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, some: bytes) -> Iterator[Frame | BadFrame]:
        """The frames that are whole now."""
        held = self._held
        held += some
        while True:
            start = held.find(b"##")
            if start < 0:
                del held[: max(len(held) - 1, 0)]  # half of a beginning may be there
                return
            del held[:start]
            if len(held) < 6:
                return
            digits = bytes(held[2:6])
            if not digits.isdigit() or int(digits) > LONGEST:
                del held[:2]
                continue
            end = 6 + int(digits) + 4
            if len(held) < end:
                if held.find(b"\r\n##", 6) < 0:
                    return
                del held[:2]  # it is shorter than it says: the next has begun
                continue
            raw = bytes(held[:end])
            del held[:end]
            if held.startswith(b"\r\n"):
                del held[:2]
            try:
                yield parse(raw)
            except BadFrame as bad:
                yield bad


class Parts:
    """Puts the parts of split messages together; the oldest give way when there are too many."""

    MOST = 200

    def __init__(self) -> None:
        self._held: dict[tuple[str, ...], dict[int, str]] = {}

    def whole(self, one: Frame) -> Frame | None:
        """The message, when all its parts are there."""
        number, count = one.part
        if count <= 1:
            return one
        key = (one.fields["MN"], one.fields["QN"], one.fields["CN"])
        known = self._held.setdefault(key, {})
        known[number] = one.content
        if len(known) < count:
            while len(self._held) > self.MOST:
                del self._held[next(iter(self._held))]
            return None
        del self._held[key]
        return Frame(one.fields, ";".join(known[n].strip(";") for n in sorted(known)))


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a message says of one factor."""

    factor: str
    time_ms: int
    value: float
    flag: str


def measured(one: Frame) -> list[Measured]:
    """The values of an upload: the current ones of real-time data, else the means. BadFrame without a time
    or with what is no number."""
    found = _DATE.search(one.content)
    if found is None:
        raise BadFrame(UNKNOWN, "DataTime is missing", one.fields)
    try:
        moment = datetime.datetime.strptime(found[1], "%Y%m%d%H%M%S").replace(tzinfo=_BEIJING)
    except ValueError:
        raise BadFrame(UNKNOWN, "DataTime is no time", one.fields) from None
    time_ms = int(moment.timestamp()) * 1000
    kind = "Rtd" if one.command == REAL_TIME else "Avg"
    values: dict[str, float] = {}
    flags: dict[str, str] = {}
    for factor, what, text in _FACTOR.findall(one.content):
        if what == "Flag":
            flags[factor] = text
        elif what == kind:
            try:
                values[factor] = float(text)
            except ValueError:
                raise BadFrame(UNKNOWN, f"{factor} is no number", one.fields) from None
    return [Measured(factor, time_ms, value, flags.get(factor, "N")) for factor, value in values.items()]


def answer(fields: dict[str, str], code: int | None = None) -> bytes:
    """The answer to an upload: that it was taken (9014), or with a code why not (9011)."""
    head = f"QN={fields['QN']};" if fields.get("QN") else ""
    tail = f"PW={fields.get('PW', '')};MN={fields.get('MN', '')};Flag=4;"
    if code is None:
        return frame(f"{head}ST=91;CN=9014;{tail}CP=&&&&")
    return frame(f"{head}ST=91;CN=9011;{tail}CP=&&QnRtn={code}&&")
