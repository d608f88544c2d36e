"""A county's habitat in one process, without a network: the real chain, database and keys, and a clock
that the test sets."""

import base64
import datetime
import json
import os
import pathlib
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.protobuf.message import Message

from cli.serve import service
from mesh import config, contract, resources, rpc, runtime

REGION = "360423"
TOWN = "360423100"
VILLAGE = "360423100201"
VILLAGE_UNIT = "54360423TE5T00032R"
TOWN_UNIT = "N2360423TE5T00024K"
COUNTY_UNIT = "91360423TE5T000169"
MONDAY = datetime.datetime(2026, 3, 2, 2, 0, tzinfo=datetime.UTC)  # 10:00 in Wuning


def secrets(folder: pathlib.Path, region: str = REGION) -> ed25519.Ed25519PrivateKey:
    """Writes a key ring and a trusted issuer into `folder`; gives the issuer's key."""

    def key() -> str:
        return base64.b64encode(os.urandom(32)).decode()

    ring = {"current": "k1", "keys": {"k1": key()}, "index_key": key()}
    (folder / "key_ring.json").write_text(json.dumps(ring))
    private = ed25519.Ed25519PrivateKey.generate()
    public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key()))
    jwks = {"keys": [{**public, "kid": "d1", "alg": "EdDSA", "use": "sig"}]}
    (folder / "jwks.json").write_text(json.dumps(jwks))
    entry = {"issuer": issuer(region), "jwks": "jwks.json", "region": region, "highest_level": "COUNTY"}
    (folder / "issuers.json").write_text(json.dumps({"issuers": [entry]}))
    return private


def issuer(region: str) -> str:
    return f"https://{region}.village.invalid/development"


def mint(private: Any, now: datetime.datetime, **claims: Any) -> str:
    """A token; `claims` replace or, when None, remove the usual ones."""
    usual = {
        "iss": issuer(REGION), "aud": "village-mesh", "sub": "somebody", "iat": int(now.timestamp()),
        "exp": int(now.timestamp()) + 3600, "roles": ["KA"], "region": REGION, "organisation": COUNTY_UNIT,
    }  # fmt: skip
    found = {k: v for k, v in {**usual, **claims}.items() if v is not None}
    return jwt.encode(found, private, algorithm="EdDSA", headers={"kid": "d1"})


PEOPLE: dict[str, dict[str, Any]] = {
    "resident": {"sub": "resident-1", "roles": ["CZ"], "organisation": None},
    "neighbour": {"sub": "resident-2", "roles": ["CZ"], "organisation": None},
    "village": {"sub": "cadre-1", "roles": ["VO"], "region": VILLAGE, "organisation": VILLAGE_UNIT},
    "town": {"sub": "clerk-1", "roles": ["TO"], "region": TOWN, "organisation": TOWN_UNIT},
    "other_town": {"sub": "clerk-9", "roles": ["TO"], "region": "360423101", "organisation": TOWN_UNIT},
    "county": {"sub": "officer-1", "roles": ["KA"]},
    "county_2": {"sub": "officer-2", "roles": ["KA"]},
    "inspector": {"sub": "inspector-1", "roles": ["KI"]},
    "auditor": {"sub": "auditor-1", "roles": ["AU"]},
}  # fmt: skip


class County:
    """Wuning's habitat service. Calls raise the refusal itself."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        self.now = MONDAY
        self.folder = folder
        self.private = secrets(folder)
        self.settings = config.Settings(
            region=REGION, listen="unix:unused", database_url=database_url, nats_url="nats://127.0.0.1:1",
            key_ring=folder / "key_ring.json", issuers=folder / "issuers.json", threads=4,
        )  # fmt: skip
        (self.hosted,), self.chain = runtime.assemble(
            [service("habitat")], self.settings, clock=lambda: self.now
        )
        assert self.hosted.store is not None
        self.store = self.hosted.store
        self.contract = contract.read("village.habitat.v1")

    def close(self) -> None:
        self.store.database.close()

    def token(self, who: str, **claims: Any) -> str:
        return mint(self.private, self.now, **{**PEOPLE[who], **claims})

    def raw(self, method: str, raw: bytes, headers: dict[str, str]) -> bytes:
        path = self.contract.methods[method].path
        return self.chain.answer(rpc.Incoming(path, raw, headers))

    def call(self, who: str, request: Message, **claims: Any) -> Any:
        """Calls the method that takes such requests, as one of PEOPLE."""
        method = next(m for m in self.contract.methods.values() if m.request is type(request))
        headers = {"authorization": f"Bearer {self.token(who, **claims)}"}
        return method.response.FromString(self.raw(method.name, request.SerializeToString(), headers))

    def pass_time(self, **span: float) -> None:
        self.now += datetime.timedelta(**span)

    def row(self, name: str) -> resources.Row:
        from village.habitat.v1.report_pb2 import Report

        row = self.store.row(self.store.codec(Report), name)
        assert row is not None
        return row
