"""A node's development issuer: its key, what it vouches for, and the tokens it signs. Separate, because a
production node has none of it."""

import base64
import datetime
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from deploy.local import directory

AUDIENCE = "village-mesh"

_KEY = "secrets/issuer.pem"


def create(data: pathlib.Path, region: str) -> None:
    """Makes the issuer's key (Ed25519), unless there is one, and publishes what it may vouch for."""
    path = data / _KEY
    if not path.exists():
        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        directory.replace(path, pem.decode())
    level = directory.level_of(region)
    entry = {"issuer": _name(region), "jwks": "jwks.json", "region": region, "highest_level": level}
    directory.replace(data / "trust/jwks.json", json.dumps({"keys": [_public(_read(data))]}, indent=1))
    directory.replace(data / "trust/issuers.json", json.dumps({"issuers": [entry]}, indent=1))


def remove(data: pathlib.Path) -> None:
    """Makes an end of the issuer: a production node must not be able to vouch for itself."""
    for name in (_KEY, "trust/jwks.json", "trust/issuers.json"):
        (data / name).unlink(missing_ok=True)


def sign(
    data: pathlib.Path,
    *,
    subject: str,
    roles: Sequence[str],
    region: str,
    organisation: str,
    lasting: datetime.timedelta,
) -> str:
    """A signed token (JWT, EdDSA). `region` is a region or a division, `roles` codes as in `KA`.
    BadNode when the node has no development issuer."""
    key = _read(data)
    now = datetime.datetime.now(datetime.UTC)
    claims = {
        "iss": _name(directory.region_of(data)),
        "sub": subject,
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + lasting,
        "jti": str(uuid.uuid4()),
        "roles": list(roles),
        "region": region,
        **({"organisation": organisation} if organisation else {}),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": _public(key)["kid"]})


def _name(region: str) -> str:
    return f"https://{region}.village.invalid/development"


def _read(data: pathlib.Path) -> ed25519.Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key((data / _KEY).read_bytes(), None)
    except FileNotFoundError:
        directory.region_of(data)
        raise directory.BadNode(
            f"the node in {data} has no development issuer: it runs in production"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise directory.BadNode(f"{os.fspath(data / _KEY)} is not an Ed25519 key")
    return key


def _public(key: ed25519.Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes_raw()
    kid = hashlib.sha256(raw).hexdigest()[:16]
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x}
