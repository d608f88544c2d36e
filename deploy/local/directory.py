"""The directory of a node on this machine: what lies where, and files that only their owner may read.
Separate, because everything else in this package stands on it."""

import base64
import datetime
import io
import json
import os
import pathlib
import secrets
import tarfile

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from gateway import authority
from mesh import keys, regions, trust
from village.type.v1 import level_pb2

BROKER_USERS = ("service", "subscriber", "system")
FOLDERS = ("secrets", "run", "data", "data/nats", "data/attachments", "data/anchors", "trust", "logs",
           "envoy", "envoy/dyn")  # fmt: skip

RINGS = ("secrets/key_ring.json", "secrets/seal_ring.json")
NODE_KEY, AUTHORITY_KEY = "secrets/node_key.pem", "secrets/authority_key.pem"
"""The key by which the node proves who it is, and, at the province, the one that signs for the mesh."""
LINE = "secrets/line.json"
"""The node's line to its province: where, as whom, and with which password."""
USERS = "secrets/users.conf"
AUDIT_KEY, AUDIT_PUBLIC = "secrets/audit_key.pem", "trust/audit_key.pem"
"""The key that signs the audit trail, and its public half."""
MANIFEST = "manifest.json"
"""What a copy of a node holds; in the directory only while the node is being restored."""
_KEY_BYTES = 32


class BadNode(Exception):  # noqa: N818 - an answer, not a fault
    """The directory and what is asked of it do not fit; the text says how."""


def lay_out(data: pathlib.Path, region: str) -> None:
    """Makes the folders, the key rings and the broker's passwords; what exists is kept. BadNode when `data`
    is another region's."""
    level = level_of(region)
    if (data / MANIFEST).exists():
        raise BadNode(
            f"{data} was not restored to the end: empty it, its databases too, and restore it again"
        )
    data.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (data / name).mkdir(exist_ok=True)
        (data / name).chmod(0o700)
    if (data / "region").exists():
        if (known := region_of(data)) != region:
            raise BadNode(f"{data} holds the node of region {known}, not of {region}")
        for key in (*RINGS, AUDIT_KEY):
            if not (data / key).exists():
                raise BadNode(f"{data / key} is missing: put it back; nothing can stand in for it")
    for ring in RINGS:
        fresh = {"current": "k1", "keys": {"k1": keys.new_key()}, "index_key": _key()}
        create(data / ring, json.dumps(fresh))
    _audit_key(data)
    words = {user: secrets.token_urlsafe(24) for user in BROKER_USERS}
    create(data / "secrets/nats.json", json.dumps(words))
    if level == "PROVINCE":
        create(data / AUTHORITY_KEY, authority.new_key().decode())
        signing = (data / AUTHORITY_KEY).read_bytes()
        found = authority.self_signed(signing, region, datetime.datetime.now(datetime.UTC))
        create(data / "trust" / trust.AUTHORITY, found.decode())
        create(data / NODE_KEY, authority.new_key().decode())
    create(data / "region", f"{region}\n")  # last: from now on the key rings must be there


def files(data: pathlib.Path) -> dict[str, str]:
    """Where the services find keys and keep files: settings of `mesh.config`."""
    root = data.resolve()
    return {
        "VILLAGEMESH_KEY_RING": f"{root}/secrets/key_ring.json",
        "VILLAGEMESH_SEAL_RING": f"{root}/secrets/seal_ring.json",
        "VILLAGEMESH_AUDIT_KEY": f"{root}/{AUDIT_KEY}",
        "VILLAGEMESH_ANCHORS": f"{root}/data/anchors",
        "VILLAGEMESH_ATTACHMENTS_URL": f"file://{root}/data/attachments",
        "VILLAGEMESH_ISSUERS": f"{root}/trust/issuers.json",
        **_mesh_files(root),
    }


def _mesh_files(root: pathlib.Path) -> dict[str, str]:
    """What a node of a mesh has besides."""
    found: dict[str, str] = {}
    if joined(root):
        found |= {"VILLAGEMESH_TRUST": f"{root}/trust", "VILLAGEMESH_NODE_KEY": f"{root}/{NODE_KEY}"}
    if (root / AUTHORITY_KEY).exists():
        found |= {
            "VILLAGEMESH_AUTHORITY_KEY": f"{root}/{AUTHORITY_KEY}",
            "VILLAGEMESH_BROKER_USERS": f"{root}/{USERS}",
        }
    return found


def joined(data: pathlib.Path) -> bool:
    """Whether the node belongs to a mesh: it is a province's, or has joined one."""
    return (data / AUTHORITY_KEY).exists() or (data / LINE).exists()


def line(data: pathlib.Path) -> dict[str, str]:
    """The node's line to its province; empty when it has none."""
    try:
        return dict(json.loads((data / LINE).read_text()))
    except FileNotFoundError:
        return {}


def _audit_key(data: pathlib.Path) -> None:
    """Makes the key that signs the audit trail, and its public half for whoever verifies it."""
    if (data / AUDIT_KEY).exists():
        return
    private = ed25519.Ed25519PrivateKey.generate()
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    raw = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (data / AUDIT_PUBLIC).unlink(missing_ok=True)
    create(data / AUDIT_PUBLIC, public.decode())
    create(data / AUDIT_KEY, raw.decode())


def region_of(data: pathlib.Path) -> str:
    """The region whose node `data` is. BadNode when it is none's."""
    try:
        return (data / "region").read_text().strip()
    except FileNotFoundError:
        raise BadNode(f"{data} holds no node: start one with `villagemesh up`") from None


def level_of(region: str) -> str:
    """The level of a region as in `COUNTY`. BadNode for what is no region."""
    if not regions.valid(region) or len(region) != 6:
        raise BadNode(f"{region!r} is not a region: six digits of GB/T 2260, as in 360423")
    return str(level_pb2.Level.Name(regions.level(region))).removeprefix("LEVEL_")


def passwords(data: pathlib.Path) -> dict[str, str]:
    """The broker's passwords by user."""
    return dict(json.loads((data / "secrets/nats.json").read_text()))


def create(path: pathlib.Path, text: str) -> None:
    """Writes a file that only its owner may read, once: an existing one is kept."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def pack(tar: tarfile.TarFile, name: str, raw: bytes) -> None:
    """Adds a file that only its owner may read to an archive."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(raw), 0o600
    tar.addfile(member, io.BytesIO(raw))


def replace(path: pathlib.Path, text: str) -> None:
    """Writes a file that only its owner may read; a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    create(temporary, text)
    temporary.replace(path)


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
