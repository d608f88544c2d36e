"""Who calls, and whether he may: token → caller, and caller × rule × record → yes or no. Verified in
every service, because a header proves nothing."""

import dataclasses
import json
import logging
import math
import pathlib
import threading
import time
from typing import Any, NamedTuple

import jwt

from mesh import contract, errors, regions
from village.options.v1 import options_pb2
from village.type.v1 import level_pb2

CLOCK_SKEW_S = 30
LOOK_S = 1.0
_ALGORITHMS = ["EdDSA", "ES256", "RS256"]
_ROLES: dict[str, Any] = {
    value.name.removeprefix("ROLE_"): value.GetOptions().Extensions[options_pb2.role]
    for value in options_pb2.Role.DESCRIPTOR.values
}
_LEVELS: dict[str, int] = {name: role.level for name, role in _ROLES.items()}
_GRANTED = _LEVELS.keys() - {"UNSPECIFIED", "SYS"}
"""The roles that a token can carry."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who calls. `region` may be a division: a township clerk's is nine digits. `subject` is empty for
    somebody without a token. `deputy` is who really calls when he acts for the subject."""

    subject: str = ""
    roles: frozenset[str] = frozenset()
    region: str = ""
    organisation: str = ""
    issuer: str = ""
    deputy: str = ""

    @property
    def official(self) -> bool:
        """Whether he acts for government, so that his subject may stand in histories."""
        return "NODE" in self.roles or any(_LEVELS[role] for role in self.roles)

    @property
    def separate(self) -> bool:
        """Whether he is one of the three officers (三员), who act in no other part."""
        return any(role in _ROLES and _ROLES[role].separate for role in self.roles)


PUBLIC = Caller()


VOUCHED = "x-village-node-caller"
"""The header in which the province proves who asked, in a call that it delivers late."""


def of_node(region: str) -> Caller:
    """A node of the mesh that calls in its own name."""
    return Caller(subject=f"node:{region}", roles=frozenset({"NODE"}), region=region)


SYSTEM = Caller(subject="system", roles=frozenset({"SYS"}))


class Place(NamedTuple):
    """What a permission is judged by; None for what is not known yet."""

    region: str
    division: str | None = None
    unit: str | None = None
    own: bool | None = None
    record: Any = None
    """The record itself, for rules that ask who acted on it before, and how the caller stands in it."""
    me: frozenset[str] = frozenset()


class BadIssuers(SystemExit):
    """The issuers cannot be read when the process starts; it stops with this text."""


class Issuers:
    """The issuers whose tokens count. The file is JSON: `{"issuers": [{"issuer", "jwks" (a path relative
    to the file), "region", "highest_level"}]}`: an issuer vouches for callers inside its region with
    roles up to its level. Files are looked at again at most once a second, and read when they changed;
    while they cannot be read, what was read last counts."""

    def __init__(self, path: pathlib.Path, audience: str, directory: Any = None) -> None:
        self._path, self._audience, self._directory = path, audience, directory
        self._lock = threading.Lock()
        self._stamps: list[int] = []
        self._looked = time.monotonic()
        # with the callers that these keys have proven; replaced together
        self._trusted: tuple[dict[str, _Issuer], dict[str, tuple[float, Caller]]] = ({}, {})
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, jwt.PyJWTError) as fault:
            raise BadIssuers(f"villagemesh: the issuers in {path} cannot be read: {fault!r}") from fault

    def caller(self, token: str, now: float) -> Caller:
        """The caller that a token names. `now`: seconds since 1970."""
        if time.monotonic() - self._looked > LOOK_S and self._lock.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._lock.release()
        entries, proven = self._trusted
        cached = proven.get(token)
        if cached is not None and now <= cached[0]:
            return cached[1]
        until, caller = self._verify(entries, token, now)
        if len(proven) >= 10_000:
            proven.clear()
        proven[token] = (until, caller)
        return caller

    def vouch(self, claims: dict[str, Any]) -> Caller:
        """The caller of claims that were proven before and kept, if their issuer may still vouch for
        them."""
        issuer = self._trusted[0].get(str(claims["iss"]))
        if issuer is None:
            raise errors.Unauthenticated(why="the issuer is not known here any more")
        return _vouched(claims, issuer)

    def _refresh(self) -> None:
        self._looked = time.monotonic()
        try:
            self._read()
        except (OSError, ValueError, KeyError, TypeError, jwt.PyJWTError) as fault:
            log.warning("the issuers cannot be read", extra={"about": {"why": repr(fault)}})

    def _read(self) -> None:
        listed = [_Issuer(**entry) for entry in json.loads(self._path.read_text())["issuers"]]
        files = [self._path, *(self._path.parent / issuer.jwks for issuer in listed)]
        view = self._directory.view if self._directory is not None else None
        stamps = [*(file.stat().st_mtime_ns for file in files), view.version if view else 0]
        if stamps == self._stamps:
            return
        for issuer in listed:
            level_pb2.Level.Value(f"LEVEL_{issuer.highest_level}")
            found = jwt.PyJWKSet.from_json((self._path.parent / issuer.jwks).read_text())
            issuer.keys.update({key.key_id or "": key for key in found.keys})
        own = {issuer.issuer for issuer in listed}
        for entry in view.issuers if view else ():
            if entry.issuer not in own and (keys := _keys(entry)):
                listed.append(_Issuer(entry.issuer, "", entry.region, entry.highest_level, keys))
        self._trusted, self._stamps = ({issuer.issuer: issuer for issuer in listed}, {}), stamps

    def _verify(self, entries: dict[str, "_Issuer"], token: str, now: float) -> tuple[float, Caller]:
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
            issuer = entries[str(claimed.get("iss", ""))]
            claims = jwt.decode(
                token,
                issuer.keys[str(header.get("kid", ""))],
                algorithms=_ALGORITHMS,
                audience=self._audience,
                options={"require": ["exp", "iat", "sub", "aud", "iss"], "verify_exp": False,
                         "verify_nbf": False, "verify_iat": False},
            )  # fmt: skip
        except KeyError as fault:
            raise errors.Unauthenticated(why="the token's issuer or key is not known here") from fault
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as fault:
            raise errors.Unauthenticated(why=f"the token cannot be used: {fault}") from fault
        expires, issued, begins = (_instant(claims, name) for name in ("exp", "iat", "nbf"))
        if now > expires + CLOCK_SKEW_S:
            raise errors.Unauthenticated(why="the token has expired")
        if now < max(issued, begins) - CLOCK_SKEW_S:
            raise errors.Unauthenticated(why="the token is not valid yet")
        return expires + CLOCK_SKEW_S, _vouched(claims, issuer)


@dataclasses.dataclass(frozen=True)
class _Issuer:
    """An entry of the file, with its keys by id."""

    issuer: str
    jwks: str
    region: str
    highest_level: str
    keys: dict[str, jwt.PyJWK] = dataclasses.field(default_factory=dict)


def _keys(entry: Any) -> dict[str, jwt.PyJWK]:
    """The keys of an issuer that the mesh vouches for; none when they cannot be read, which is its affair."""
    try:
        return {key.key_id or "": key for key in jwt.PyJWKSet.from_json(entry.jwks).keys}
    except Exception as fault:  # another node's bytes, which the library may trip over in any way
        log.warning(
            "an issuer's keys cannot be read", extra={"about": {"issuer": entry.issuer, "why": repr(fault)}}
        )
        return {}


def _instant(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise errors.Unauthenticated(why=f"the token's {name} is not a time")
    return value


def _vouched(claims: dict[str, Any], issuer: _Issuer) -> Caller:
    """The caller, if his issuer may vouch for his region and for each of his roles."""
    subject, region, roles = claims["sub"], claims.get("region"), claims.get("roles")
    organisation = claims.get("organisation", "")
    taken = ("system", "sealed:", "node:")  # how the mesh itself and residents stand in histories
    if not isinstance(subject, str) or not subject.strip() or subject.startswith(taken):
        raise errors.Unauthenticated(why="the token states no valid subject")
    if not isinstance(organisation, str):
        raise errors.Unauthenticated(why="the token's organisation is not text")
    if not isinstance(region, str) or not regions.valid(region):
        raise errors.Unauthenticated(why="the token states no valid region")
    if not isinstance(roles, list) or not roles or any(str(role) not in _GRANTED for role in roles):
        raise errors.Unauthenticated(why="the token states no valid roles")
    if len(roles) > 1 and any(_ROLES[str(role)].separate for role in roles):
        raise errors.Unauthenticated(why="an officer (ADM, SEC, AUD) holds no other role")
    if not regions.contains(issuer.region, region):
        raise errors.Unauthenticated(why=f"the token's issuer cannot vouch for region {region}")
    highest = level_pb2.Level.Value(f"LEVEL_{issuer.highest_level}")
    if any(_LEVELS[str(role)] > highest for role in roles):
        raise errors.Unauthenticated(why="the token's issuer cannot vouch for a role of that level")
    return Caller(subject, frozenset(map(str, roles)), region, organisation, issuer.issuer)


def permit(method: contract.Method, caller: Caller, place: Place | None) -> tuple[contract.Rule, str]:
    """The first rule that lets the caller call the method there, and the role it counts for. What is not
    known yet is taken to fit; without a place only roles are looked at. Forbidden when none fits."""
    why = "none of the caller's roles is allowed to"
    for rule in method.rules:
        role = _role(rule, caller)
        if not role:
            continue
        trouble = _trouble(rule, caller, place) if place is not None else ""
        if not trouble:
            return rule, role
        why = trouble
    if not caller.subject:
        raise errors.Unauthenticated(why="a token is needed: authorization: Bearer …")
    raise errors.Forbidden(method=method.name, why=why)


def _role(rule: contract.Rule, caller: Caller) -> str:
    """The caller's role that a rule counts, or empty."""
    if rule.scope == options_pb2.SCOPE_PUBLIC:
        return "PUB"
    wanted = frozenset({"NODE"}) if rule.scope == options_pb2.SCOPE_NODE else rule.roles
    return min(wanted & caller.roles, default="")


def _trouble(rule: contract.Rule, caller: Caller, place: Place) -> str:
    """Why a rule does not fit, or empty."""
    if rule.scope in (options_pb2.SCOPE_PUBLIC, options_pb2.SCOPE_NODE):
        return ""
    if rule.scope == options_pb2.SCOPE_OWN_REGION and regions.region_of(caller.region) != place.region:
        return "it lies outside the caller's own region"
    if rule.scope == options_pb2.SCOPE_OWN_RECORDS:
        if not related(caller.region, place.region) or place.own is False:
            return "it is not the caller's own record"
    elif place.division is not None:
        if not regions.contains(caller.region, place.division):
            return "it lies outside the caller's division"
    elif not related(caller.region, place.region):
        return "it lies outside the caller's region"
    if rule.handling_unit and place.unit is not None and place.unit != (caller.organisation or None):
        return "the caller's organisation does not handle it"
    if place.record is not None and any(getattr(place.record, f) in place.me for f in rule.differs_from):
        return "the same person took an earlier step"
    return ""


def related(mine: str, region: str) -> bool:
    """Whether `region` lies inside mine, or mine is a division of it."""
    return regions.contains(mine, region) or regions.region_of(mine) == region
