"""Codes of places and organisations: GB/T 2260 regions, statistical divisions below them, and the check
character of unified social credit codes. Pure, because rules in every domain ask these questions."""

import re

from village.type.v1 import level_pb2

_USCC = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS = [pow(3, i, 31) for i in range(17)]


def valid(code: str) -> bool:
    """Whether `code` has the form of a region (6 digits) or a division (9 or 12)."""
    return re.fullmatch(r"[1-9][0-9]{5}([0-9]{3}([0-9]{3})?)?", code) is not None


def level(code: str) -> int:
    """The level of a code, as `village.type.v1.Level`. ValueError for anything that is not one."""
    if not valid(code):
        raise ValueError(f"{code!r} is neither a region nor a division")
    if len(code) == 12:
        return level_pb2.LEVEL_VILLAGE
    if len(code) == 9:
        return level_pb2.LEVEL_TOWNSHIP
    if code.endswith("0000"):
        return level_pb2.LEVEL_PROVINCE
    return level_pb2.LEVEL_CITY if code.endswith("00") else level_pb2.LEVEL_COUNTY


def prefix(code: str) -> str:
    """The digits that every code inside `code` begins with: `36` for 360000, `360423` for itself."""
    if len(code) != 6:
        return code
    return code[:2] if code.endswith("0000") else code[:4] if code.endswith("00") else code


def contains(outer: str, inner: str) -> bool:
    """Whether `inner` is `outer` or lies inside it."""
    return inner.startswith(prefix(outer))


def region_of(code: str) -> str:
    """The region that a code belongs to: its first six digits."""
    return code[:6]


def bounds(code: str) -> tuple[str, str]:
    """The lowest and highest 12-digit division inside `code`, for a range in SQL."""
    start = prefix(code)
    return start.ljust(12, "0"), start.ljust(12, "9")


def tokens(region: str) -> str:
    """A region as three subject tokens: `36.04.23`."""
    return f"{region[:2]}.{region[2:4]}.{region[4:6]}"


def uscc_valid(code: str) -> bool:
    """Whether a unified social credit code (GB 32100-2015) has the right check character."""
    if len(code) != 18 or any(c not in _USCC for c in code):
        return False
    total = sum(_USCC.index(c) * w for c, w in zip(code[:17], _USCC_WEIGHTS, strict=True))
    return _USCC[(31 - total % 31) % 31] == code[17]
