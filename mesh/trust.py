"""Whom a node trusts and what it knows of the mesh: the province's signed bundle, read from disk, and the
node's own key. Separate from `identity`, which knows people's tokens only."""

import dataclasses
import datetime
import hashlib
import logging
import os
import pathlib
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from mesh import errors, regions, resources
from village.mesh.v1 import bundle_pb2

BUNDLE, AUTHORITY, CERTIFICATE = "bundle.binpb", "authority.pem", "node.pem"
"""In the folder of trust: the bundle, the certificate of whoever signs it, and the node's own."""
NODE_DOMAIN = "mesh"
"""What a node process keeps; it is of no ministry, and each node's is its own."""
LIFE = datetime.timedelta(days=45)
LOOK_S = 0.5
TOKEN_S, RENEW_S = 120, 60
SKEW_S = 6 * 3600
"""How wrong the clock of a node may be before others no longer take its word."""
ISSUER = "village-mesh-node"
POINT = 65
ECDSA = ec.ECDSA(hashes.SHA256())
log = logging.getLogger(__name__)


class BadBundle(Exception):  # noqa: N818 - an answer, not a fault
    """A bundle is not what the authority signed, or not for this mesh."""


class NodeNotTrusted(errors.Unauthenticated):
    """Another node does not prove who it is."""

    zh = "对方节点未通过身份验证"


@dataclasses.dataclass(frozen=True)
class View:
    """What a bundle says, as tables."""

    province: str
    version: int
    issued: datetime.datetime
    expires: datetime.datetime
    nodes: Mapping[str, bundle_pb2.NodeEntry]
    grants: Mapping[tuple[str, str], bundle_pb2.GrantEntry]
    issuers: tuple[bundle_pb2.IssuerEntry, ...]
    domains: tuple[str, ...] = ()

    def owner(self, region: str, domain: str) -> str:
        """The node that accepts writes for a pair: the one it was granted to, else the province; empty for a
        region that the mesh does not know. What `mesh` itself keeps at a node is that node's."""
        if domain == NODE_DOMAIN:
            return region if region in self.nodes else ""
        grant = self.grants.get((region, domain))
        if grant is not None:
            return grant.node
        known = region == self.province or region in self.nodes or any(r == region for r, _ in self.grants)
        return self.province if known else ""

    def epoch(self, region: str, domain: str) -> int:
        """The epoch of the pair's owner."""
        grant = self.grants.get((region, domain))
        return grant.epoch if grant is not None else 1

    def regions(self) -> list[str]:
        """Every region that the mesh knows."""
        return sorted({self.province, *self.nodes, *(region for region, _ in self.grants)})


def opened(bundle: bundle_pb2.Bundle, authority: bytes) -> View:
    """What a bundle says, if the authority (its certificate in PEM) signed it: BadBundle otherwise."""
    key = x509.load_pem_x509_certificate(authority).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(bundle.signature, bundle.content, ECDSA)
        content = bundle_pb2.BundleContent.FromString(bundle.content)
    except (InvalidSignature, DecodeError) as fault:
        raise BadBundle("the bundle is not what the province's authority signed") from fault
    return View(
        content.province, content.version, resources.moment(content.issue_time),
        resources.moment(content.expire_time), {n.region: n for n in content.nodes},
        {(g.region, g.domain): g for g in content.grants}, tuple(content.issuers),
        tuple(content.domains),
    )  # fmt: skip


class Directory:
    """A node's copy of the directory, and its own proof of who it is. Looked at again at most every half
    second; what cannot be used is logged, and what was read last counts."""

    def __init__(self, folder: pathlib.Path, key: pathlib.Path, region: str) -> None:
        self.folder, self.region = folder, region
        self._key = serialization.load_pem_private_key(key.read_bytes(), None)
        self._lock, self._looked, self._stamp = threading.Lock(), 0.0, -1
        # what it says to itself, from one process to the other, counts whatever others hold of it
        self._own: Any = {region: self._key.public_key()}
        self._keys: dict[str, ec.EllipticCurvePublicKey] = self._own
        self._tokens: dict[str, tuple[float, str]] = {}
        self._proven: dict[str, tuple[float, str]] = {}
        self._view = View("", 0, resources.EPOCH, resources.EPOCH, {}, {}, ())

    @property
    def view(self) -> View:
        """The directory as it stands."""
        if time.monotonic() - self._looked > LOOK_S and self._lock.acquire(blocking=False):
            try:
                self._looked = time.monotonic()
                self._read()
            except (OSError, ValueError, DecodeError, BadBundle) as fault:
                log.warning("the bundle cannot be used", extra={"about": {"why": repr(fault)}})
            finally:
                self._lock.release()
        return self._view

    def refresh(self) -> View:
        """The directory, looked at now."""
        self._looked = 0.0
        return self.view

    def _read(self) -> None:
        path = self.folder / BUNDLE
        stamp = path.stat().st_mtime_ns
        if stamp == self._stamp:
            return
        bundle = bundle_pb2.Bundle.FromString(path.read_bytes())
        found = opened(bundle, (self.folder / AUTHORITY).read_bytes())
        keys: dict[str, ec.EllipticCurvePublicKey] = {}
        for node in found.nodes.values():
            key = serialization.load_pem_public_key(node.public_key.encode())
            if isinstance(key, ec.EllipticCurvePublicKey) and not node.revoked:
                keys[node.region] = key
        self._view, self._keys, self._proven, self._stamp = found, keys | self._own, {}, stamp

    @property
    def is_province(self) -> bool:
        """Whether this node is the province's."""
        return self.region == self.view.province

    def parent(self) -> str:
        """The node that this one dials."""
        return "" if self.is_province else self.view.province

    def expired(self, now: datetime.datetime) -> bool:
        """Whether the bundle has ended: then the node serves its own people only."""
        return now > self.view.expires

    def token(self, to: str, now: datetime.datetime) -> str:
        """A token by which this node proves to another who it is; good for two minutes, and there only."""
        moment, known = now.timestamp(), self._tokens.get(to)
        if known is not None and moment < known[0]:
            return known[1]
        claims = {"iss": ISSUER, "sub": self.region, "aud": to, "iat": int(moment),
                  "exp": int(moment) + TOKEN_S}  # fmt: skip
        made = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.region})  # type: ignore[arg-type]
        self._tokens[to] = moment + RENEW_S, made
        return made

    def sender(self, token: str, now: datetime.datetime) -> str:
        """The node that a token proves. NodeNotTrusted when it proves none that belongs to the mesh."""
        view, moment = self.view, now.timestamp()
        known = self._proven.get(token)
        if known is not None and moment < known[0]:
            return known[1]
        try:
            node = str(jwt.get_unverified_header(token).get("kid", ""))
            if now > view.expires and node != self.region:
                raise NodeNotTrusted(why="the trust of the node that is asked has expired")
            claims = jwt.decode(
                token, self._keys[node], algorithms=["ES256"], audience=self.region, issuer=ISSUER,
                options={"require": ["exp", "iat", "sub", "aud"], "verify_exp": False, "verify_iat": False},
            )  # fmt: skip
            begins, ends = float(claims["iat"]) - SKEW_S, float(claims["exp"]) + SKEW_S
            made = resources.EPOCH + datetime.timedelta(seconds=float(claims["iat"]))
        except KeyError as fault:
            raise NodeNotTrusted(why="the node does not belong to the mesh") from fault
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as fault:
            raise NodeNotTrusted(why=f"the node's token cannot be used: {fault}") from fault
        if claims["sub"] != node or not regions.valid(node):
            raise NodeNotTrusted(why="the node's token is not its own")
        if not begins <= moment <= ends:
            raise NodeNotTrusted(
                why=f"a clock is wrong: the node's token is of {made:%d %H:%M} UTC, here it is {now:%d %H:%M}"
            )
        if len(self._proven) > 10_000:
            self._proven.clear()
        self._proven[token] = moment + RENEW_S, node
        return node

    def refuse_revoked(self, told: str) -> None:
        """Refuses what came with the certificate of a node that was shut out: `told` is what the gateway says
        of it."""
        for name in re.findall(r"DNS=([1-9][0-9]{5})\.node\.village\.invalid", told):
            entry = self.view.nodes.get(name)
            if entry is None or entry.revoked:
                raise errors.Unauthenticated(why=f"node {name} does not belong to the mesh")

    def seal(self, to: str, raw: bytes) -> bytes:
        """Bytes that only another node can open: an ephemeral P-256 key's point, nonce, AES-256-GCM."""
        once, nonce = ec.generate_private_key(ec.SECP256R1()), os.urandom(12)
        key = _shared(once, self._keys[to])
        point = once.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return point + nonce + AESGCM(key).encrypt(nonce, raw, point)

    def unseal(self, sealed: bytes) -> bytes:
        """What was sealed for this node. ValueError when it was not, or was altered."""
        point, nonce, rest = sealed[:POINT], sealed[POINT : POINT + 12], sealed[POINT + 12 :]
        once = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        try:
            return AESGCM(_shared(self._key, once)).decrypt(nonce, rest, point)
        except InvalidTag as fault:
            raise ValueError("it does not open with this node's key") from fault

    def vouch(
        self, to: str, claims: dict[str, Any], asked: datetime.datetime, raw: bytes, now: datetime.datetime
    ) -> str:
        """Proves to another node who asked for what, and when: the claims of a token that this node verified
        then, bound to the request."""
        body = {"iss": ISSUER, "sub": self.region, "aud": to, "iat": int(now.timestamp()),
                "exp": int(now.timestamp()) + TOKEN_S, "caller": claims, "asked": asked.isoformat(),
                "request": hashlib.sha256(raw).hexdigest()}  # fmt: skip
        return jwt.encode(body, self._key, algorithm="ES256", headers={"kid": self.region})  # type: ignore[arg-type]

    def vouched(self, token: str, raw: bytes) -> tuple[dict[str, Any], datetime.datetime]:
        """(claims of who asked, when), as the province proves them for exactly this request."""
        try:
            body = jwt.decode(
                token, self._keys[self.view.province], algorithms=["ES256"], audience=self.region,
                issuer=ISSUER, leeway=SKEW_S,
            )  # fmt: skip
            asked = datetime.datetime.fromisoformat(body["asked"])
            if body["request"] != hashlib.sha256(raw).hexdigest():
                raise ValueError("it is for another request")
        except (jwt.PyJWTError, ValueError, KeyError, TypeError) as fault:
            raise errors.Unauthenticated(
                why=f"the province's word on the caller cannot be used: {fault}"
            ) from fault
        return dict(body["caller"]), asked


def _shared(mine: Any, theirs: ec.EllipticCurvePublicKey) -> bytes:
    secret = mine.exchange(ec.ECDH(), theirs)
    return HKDF(hashes.SHA256(), length=32, salt=None, info=b"village mesh export").derive(secret)
