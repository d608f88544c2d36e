"""A county's habitat in one process, without a network: the real chain, database and keys, and a clock
that the test sets."""

import atexit
import datetime
import functools
import hashlib
import json
import pathlib
import shutil
import tempfile
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.protobuf.message import Message

from cli import sample
from cli.serve import service
from deploy.local import directory
from mesh import attachments, callers, config, contract, database, migrations, resources, rpc, runtime
from tests import province

REGION = "360423"
TOWN = "360423100"
VILLAGE = "360423100201"
VILLAGE_UNIT = "54360423TE5T00032R"
TOWN_UNIT = "N2360423TE5T00024K"
COUNTY_UNIT = "91360423TE5T000169"
LAB_UNIT, LAB_2_UNIT = "12360423TE5T00101K", "12360423TE5T00102N"
FARM_UNIT, FARM_2_UNIT = "93360423TE5T00201X", "93360423TE5T002021"
MONDAY = datetime.datetime(2026, 3, 2, 2, 0, tzinfo=datetime.UTC)  # 10:00 in Wuning


def secrets(folder: pathlib.Path, region: str = REGION) -> ed25519.Ed25519PrivateKey:
    """Writes a node's keys and a trusted issuer into `folder`; gives the issuer's key."""
    directory.lay_out(folder, region)
    private = ed25519.Ed25519PrivateKey.generate()
    public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key()))
    jwks = {"keys": [{**public, "kid": "d1", "alg": "EdDSA", "use": "sig"}]}
    (folder / "trust/jwks.json").write_text(json.dumps(jwks))
    entry = {"issuer": issuer(region), "jwks": "jwks.json", "region": region, "highest_level": "COUNTY"}
    (folder / "trust/issuers.json").write_text(json.dumps({"issuers": [entry]}))
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
    "lab": {"sub": "analyst-1", "roles": ["LAB"], "organisation": LAB_UNIT},
    "lab_2": {"sub": "analyst-9", "roles": ["LAB"], "organisation": LAB_2_UNIT},
    "farm": {"sub": "farmer-1", "roles": ["EN"], "organisation": FARM_UNIT},
    "farm_2": {"sub": "farmer-9", "roles": ["EN"], "organisation": FARM_2_UNIT},
    "province": {"sub": "supervisor-1", "roles": ["PA"]},
    "keeper": {"sub": "keeper-1", "roles": ["GR"], "region": VILLAGE, "organisation": None},
    "device": {"sub": "device-1", "roles": ["DEV"], "organisation": None},
    "auditor": {"sub": "auditor-1", "roles": ["AU"]},
    "tractor": {"sub": "nj-0001", "roles": ["DEV"], "organisation": None},
    "tractor_2": {"sub": "nj-0002", "roles": ["DEV"], "organisation": None},
    "administrator": {"sub": "adm-1", "roles": ["ADM"]},
    "security": {"sub": "sec-1", "roles": ["SEC"]},
    "security_2": {"sub": "sec-2", "roles": ["SEC"]},
    "audit": {"sub": "aud-1", "roles": ["AUD"]},
}  # fmt: skip


PHOTO = {
    "sha256": hashlib.sha256(sample.PHOTO).hexdigest(), "media_type": "image/jpeg",
    "size_bytes": len(sample.PHOTO),
}  # fmt: skip
"""A photo that every county here keeps."""


@functools.cache
def migrated(domain: str) -> pathlib.Path:
    """A database of a domain on SQLite as it is after its migrations, made once for all tests."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(f"sqlite:///{folder}/{domain}.db", domain)
    return folder / f"{domain}.db"


def migrate(url: str, domain: str) -> None:
    """Brings an empty database to where a domain begins."""
    of = service(domain)
    assert of.migrations is not None
    opened = database.Database(url, threads=1)
    migrations.upgrade(opened, of.migrations)
    opened.close()


class County:
    """Wuning's habitat service, or another. Calls raise the refusal itself."""

    def __init__(
        self,
        folder: pathlib.Path,
        database_url: str,
        of: runtime.Service | None = None,
        region: str = REGION,
    ) -> None:
        served = of or service("habitat")
        self.now = MONDAY
        self.folder = folder
        path = pathlib.Path(database_url.removeprefix("sqlite:///").replace("{domain}", served.domain))
        if of is None and database_url.startswith("sqlite:") and not path.exists():
            shutil.copyfile(migrated(served.domain), path)
        self.region, self.private = region, secrets(folder, region)
        self.settings = config.load(
            {"VILLAGEMESH_REGION": region, "VILLAGEMESH_LISTEN": "unix:unused",
             "VILLAGEMESH_DATABASE_URL": database_url, "VILLAGEMESH_NATS_URL": "nats://127.0.0.1:1",
             "VILLAGEMESH_THREADS": "4", **directory.files(folder)}
        )  # fmt: skip
        (self.hosted,), self.chain = runtime.assemble([served], self.settings, clock=lambda: self.now)
        assert self.hosted.store is not None
        self.store = self.hosted.store
        self._province: province.Province | None = None
        self._minted: dict[str, str] = {}
        attachments.keep(self.store, [sample.PHOTO], self.now)
        self.contract = contract.read(served.package)

    def close(self) -> None:
        self.store.database.close()

    def token(self, who: str, **claims: Any) -> str:
        here = {"iss": issuer(self.region), "region": self.region}
        return mint(self.private, self.now, **{**here, **PEOPLE[who], **claims})

    def minted(self, **claims: Any) -> str:
        """A token of exactly these claims beside the usual; the same again for the same, at the same time."""
        key = f"{self.now} {claims}"
        if key not in self._minted:
            self._minted[key] = mint(self.private, self.now, **claims)
        return self._minted[key]

    def as_node(self, region: str = province.PROVINCE) -> dict[str, str]:
        """The headers of a node in its own name. From the first time on the county belongs to a mesh."""
        if self._province is None:
            self._province = province.Province(self.folder / "mesh")
            self._province.publish(self.now)
            self.chain.callers.directory = self._province.directory(REGION)
        return {callers.NODE: self._province.directory(region).token(REGION, self.now)}

    def raw(self, method: str, raw: bytes, headers: dict[str, str]) -> bytes:
        """The answer's bytes; those of all its messages one after the other where it is a stream."""
        found = self.contract.methods[method]
        incoming = rpc.Incoming(found.path, iter([raw]) if found.streams_in else raw, headers)
        answer = self.chain.answer(incoming)
        return b"".join(answer) if found.streams_out else answer

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
