"""The directory of a node on this machine: what lies where, and files that only their owner may read.
Separate, because everything else in this package stands on it."""

import base64
import json
import os
import pathlib
import secrets

from mesh import regions
from village.type.v1 import level_pb2

BROKER_USERS = ("service", "subscriber")
FOLDERS = ("secrets", "run", "data", "data/nats", "trust", "logs", "envoy", "envoy/dyn")

KEY_RING = "secrets/key_ring.json"
_KEY_BYTES = 32


class BadNode(Exception):  # noqa: N818 - an answer, not a fault
    """The directory and what is asked of it do not fit; the text says how."""


def lay_out(data: pathlib.Path, region: str) -> None:
    """Makes the folders, the key ring and the broker's passwords; what exists is kept. BadNode when `data`
    is another region's."""
    if not regions.valid(region) or len(region) != 6:
        raise BadNode(f"{region!r} is not a region: six digits of GB/T 2260, as in 360423")
    data.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        (data / name).mkdir(exist_ok=True)
        (data / name).chmod(0o700)
    if (data / "region").exists():
        if (known := region_of(data)) != region:
            raise BadNode(f"{data} holds the node of region {known}, not of {region}")
        if not (data / KEY_RING).exists():
            raise BadNode(f"{data / KEY_RING} is missing: put it back, without it the data cannot be read")
    keys = {"current": "k1", "keys": {"k1": _key()}, "index_key": _key()}
    create(data / KEY_RING, json.dumps(keys))
    words = {user: secrets.token_urlsafe(24) for user in BROKER_USERS}
    create(data / "secrets/nats.json", json.dumps(words))
    create(data / "region", f"{region}\n")  # last: from now on the key ring must be there


def region_of(data: pathlib.Path) -> str:
    """The region whose node `data` is. BadNode when it is none's."""
    try:
        return (data / "region").read_text().strip()
    except FileNotFoundError:
        raise BadNode(f"{data} holds no node: start one with `villagemesh up`") from None


def level_of(region: str) -> str:
    """The level of a region as in `COUNTY`."""
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


def replace(path: pathlib.Path, text: str) -> None:
    """Writes a file that only its owner may read; a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    create(temporary, text)
    temporary.replace(path)


def _key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
