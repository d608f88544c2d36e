"""The tokens a run may use, and which of them the contract lets call a method, keeps out, or places
elsewhere. What a token claims is read from it; whether it is genuine, the endpoint decides."""

import base64
import binascii
import dataclasses
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from conform.declared import Method
from village.options.v1 import options_pb2

_TOKEN = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
_OWN, _SUBTREE, _RECORDS = (
    options_pb2.SCOPE_OWN_REGION, options_pb2.SCOPE_SUBTREE, options_pb2.SCOPE_OWN_RECORDS
)  # fmt: skip


class BadTokens(Exception):  # noqa: N818
    """The tokens cannot be used; the text says why."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who a token says it is of."""

    token: str
    roles: frozenset[str]
    region: str
    organisation: str = ""

    def __str__(self) -> str:
        return f"{'/'.join(sorted(self.roles))} of {self.region}"


def read(text: str) -> list[Caller]:
    """Every token in a text: one a line, `NAME=TOKEN` lines of a shell, JSON, as it comes."""
    return [_caller(token) for token in dict.fromkeys(_TOKEN.findall(text))]


def _caller(token: str) -> Caller:
    part = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        roles, region, expires = claims["roles"], claims["region"], float(claims["exp"])
        if not isinstance(region, str) or not isinstance(roles, list) or not roles:
            raise TypeError
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise BadTokens(f"the token {token[:20]}… does not state roles, region and exp") from None
    if expires < time.time():
        raise BadTokens(f"the token of {'/'.join(map(str, roles))} of {region} has expired")
    return Caller(token, frozenset(map(str, roles)), region, str(claims.get("organisation", "")))


def contains(outer: str, inner: str) -> bool:
    """Whether a region or division is another, or lies inside it (GB/T 2260)."""
    if len(outer) == 6:
        outer = outer[:2] if outer.endswith("0000") else outer[:4] if outer.endswith("00") else outer
    return inner.startswith(outer)


def elsewhere(region: str) -> str:
    """A county of another province."""
    return "110101" if not region.startswith("11") else "310101"


class Callers:
    """The callers of a run, for one region."""

    def __init__(self, callers: Sequence[Caller], region: str) -> None:
        self.all, self.region = tuple(callers), region

    def may(self, method: Method) -> Caller | None:
        """One whom the contract lets call the method about a record of the region, the likeliest to be let do
        it to any; whoever is of the region where it is for the public."""
        if method.public:
            return min(self.all, key=lambda caller: caller.region != self.region, default=None)
        ranked = [
            (_rank(rule, caller), n, caller)
            for rule in method.access.allow
            for n, caller in enumerate(self.all)
            if _roles(rule) & caller.roles and self._reaches(rule, caller)
        ]
        return min(ranked, key=lambda r: r[:2])[2] if ranked else None

    def kept_out(self, method: Method) -> Caller | None:
        """One none of whose roles the contract lists."""
        if method.public:
            return None
        listed: set[str] = set().union(*(_roles(rule) for rule in method.access.allow))
        near = [c for c in self.all if not listed & c.roles]
        near.sort(key=lambda c: c.region != self.region)
        return near[0] if near else None

    def from_afar(self, method: Method) -> Caller | None:
        """One whose role the contract lists, and whose region neither is nor holds nor lies in this one."""
        return next(
            (
                c for rule in method.access.allow for c in self.all
                if _roles(rule) & c.roles and not contains(c.region, self.region)
                and not contains(self.region, c.region) and rule.scope in (_OWN, _SUBTREE)
            ), None,
        )  # fmt: skip

    def _reaches(self, rule: Any, caller: Caller) -> bool:
        if rule.scope == _OWN:
            return caller.region[:6] == self.region
        return contains(caller.region, self.region) or caller.region[:6] == self.region

    @property
    def division(self) -> str:
        """A village that as many of the callers as possible reach."""
        inside = [c.region for c in self.all if contains(self.region, c.region) and len(c.region) > 6]
        longest = max(inside, key=len, default="")
        county = self.region if not self.region.endswith("00") else f"{self.region[:4].replace('00', '01')}01"
        return (longest or f"{county}100").ljust(9, "0").ljust(12, "0")[:9] + (longest[9:12] or "201")


def _roles(rule: Any) -> set[str]:
    return {options_pb2.Role.Name(role).removeprefix("ROLE_") for role in rule.roles}


def _rank(rule: Any, caller: Caller) -> tuple[bool, bool, int]:
    """Smaller is better: records of anybody before one's own, any unit before the handling one, the whole
    region before a village of it."""
    return rule.scope == _RECORDS, bool(rule.handling_unit), len(caller.region)
