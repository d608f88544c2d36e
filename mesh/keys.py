"""Keys: the rings under which personal data is encrypted at rest, and keyed digests. Separate from
`privacy`, which says what is personal; the algorithm is chosen here and nowhere else."""

import base64
import binascii
import dataclasses
import functools
import hmac
import json
import logging
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE, TAG = 12, 16
DRAWN = 1024
log = logging.getLogger(__name__)


class BadKeyRing(SystemExit):
    """The key ring cannot be used; the process stops with this text."""


class Aead(Protocol):
    """Authenticated encryption: ciphertext with its tag behind it, bound to `about`."""

    def encrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes: ...
    def decrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes: ...


class Sm4Gcm:
    """SM4 (GB/T 32907-2016) in Galois/Counter Mode."""

    def __init__(self, key: bytes) -> None:
        self._key = algorithms.SM4(key)

    def encrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes:
        sealing = Cipher(self._key, modes.GCM(nonce)).encryptor()
        sealing.authenticate_additional_data(about)
        return sealing.update(data) + sealing.finalize() + sealing.tag

    def decrypt(self, nonce: bytes, data: bytes, about: bytes) -> bytes:
        opening = Cipher(self._key, modes.GCM(nonce, data[-TAG:])).decryptor()
        opening.authenticate_additional_data(about)
        return opening.update(data[:-TAG]) + opening.finalize()


ALGORITHMS: dict[str, tuple[int, Callable[[bytes], Aead]]] = {
    "AES-256-GCM": (32, AESGCM),
    "SM4-GCM": (16, Sm4Gcm),
}
"""Name → length of the key in bytes, and the cipher."""


def new_key(algorithm: str = "AES-256-GCM") -> dict[str, str]:
    """A fresh key as it stands in a ring's file."""
    key = os.urandom(ALGORITHMS[algorithm][0])
    return {"algorithm": algorithm, "key": base64.b64encode(key).decode()}


class _Drawn(threading.local):
    """Random bytes of the system's that are not used yet, of one thread."""

    left = b""


_drawn = _Drawn()


def _forget_drawn() -> None:
    _drawn.left = b""


os.register_at_fork(after_in_child=_forget_drawn)  # what parent and child both held would be used twice


def random_bytes(count: int) -> bytes:
    """Random bytes of the system's. Fetched many at a time, because at each fetch a thread lets go of the
    interpreter, and gets it back behind all others."""
    if len(_drawn.left) < count:
        _drawn.left = os.urandom(DRAWN)
    found, _drawn.left = _drawn.left[:count], _drawn.left[count:]
    return found


class KeyRing:
    """Keys by id. The file is JSON: `{"current": "k1", "keys": {"k1": {"algorithm": "AES-256-GCM", "key":
    BASE64}, …}, "index_key": BASE64 of 32 bytes}`. A new key is added beside the old ones and made current,
    while processes run: they look at the file again when asked to, and when they meet a key they do not
    know."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path, self._stamp = path, 0
        self.current, self._keys, self._index_key = "", dict[str, Aead](), b""
        self._index_keys: dict[str, str] = {}
        try:
            self._read()
        except _UNREADABLE as fault:
            raise BadKeyRing(f"villagemesh: the key ring {path} cannot be used: {fault!r}") from fault

    def refresh(self) -> None:
        """Reads the file again when it changed; while it cannot be read, what was read last counts."""
        try:
            self._read()
        except _UNREADABLE as fault:
            log.warning("the key ring cannot be read", extra={"about": {"why": repr(fault)}})

    def _read(self) -> None:
        stamp = self._path.stat().st_mtime_ns
        if stamp == self._stamp:
            return
        found = json.loads(self._path.read_text())
        keys = {name: _cipher(entry) for name, entry in found["keys"].items()}
        keys[found["current"]]
        index_key = base64.b64decode(found["index_key"], validate=True)
        self._keys, self._index_key, self.current = keys, index_key, found["current"]
        self._index_keys = dict(found.get("index_keys", {}))
        self._stamp = stamp

    def encrypt(self, text: str, context: str) -> str:
        """`KEYID:BASE64(nonce, ciphertext, tag)`, bound to `context`, so that a value copied to another
        record or field does not open. Empty text stays empty."""
        if not text:
            return ""
        key, nonce = self.current, random_bytes(NONCE)
        sealed = self._keys[key].encrypt(nonce, text.encode(), context.encode())
        return f"{key}:{binascii.b2a_base64(nonce + sealed, newline=False).decode()}"

    def decrypt(self, value: str, context: str) -> str:
        """The text. ValueError when the value was altered, moved, or its key is gone."""
        if not value:
            return ""
        key, _, rest = value.partition(":")
        if key not in self._keys:
            self.refresh()
        if key not in self._keys:
            raise ValueError(f"the key ring has no key {key!r}")
        raw = binascii.a2b_base64(rest)
        try:
            return self._keys[key].decrypt(raw[:NONCE], raw[NONCE:], context.encode()).decode()
        except (InvalidTag, ValueError) as fault:
            raise ValueError(f"the value at {context} does not open") from fault

    def index(self, text: str, *, region: str, domain: str) -> str:
        """A keyed digest for equality, different in every (region, domain)."""
        key = base64.b64decode(self.index_key(region, domain))
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")[:18]).decode()

    def index_key(self, region: str, domain: str) -> str:
        """The key of those digests for a pair, BASE64: this ring's own, or the one that came with it."""
        pair = f"{region}/{domain}"
        return self._index_keys.get(pair) or _index_key(self._index_key, pair)

    def adopt_index(self, region: str, domain: str, key: str) -> None:
        """Keeps the key that comes with a pair from another node, so that its digests still match."""
        pair = f"{region}/{domain}"
        if self.index_key(region, domain) != key:
            found = json.loads(self._path.read_text())
            found.setdefault("index_keys", {})[pair] = key
            _replace(self._path, found)
            self.refresh()


@dataclasses.dataclass(frozen=True)
class Rings:
    """A node's two rings: one for what the duty needs, one for what is under seal."""

    data: KeyRing
    seal: KeyRing

    def of(self, field: Any) -> KeyRing:
        """The ring of a field."""
        return self.seal if field.sealed else self.data

    def refresh(self) -> None:
        self.data.refresh()
        self.seal.refresh()


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def _cipher(entry: dict[str, Any]) -> Aead:
    length, make = ALGORITHMS[entry["algorithm"]]
    key = base64.b64decode(entry["key"], validate=True)
    if len(key) != length:
        raise ValueError(f"a key of {entry['algorithm']} has {length} bytes")
    return make(key)


@functools.lru_cache
def _index_key(key: bytes, pair: str) -> str:
    return base64.b64encode(hmac.digest(key, pair.encode(), "sha256")).decode()


def retire(path: pathlib.Path, name: str) -> None:
    """Takes a key out of a ring's file; KeyError when it is not in it, ValueError when it is current."""
    found = json.loads(path.read_text())
    if name == found["current"]:
        raise ValueError(name)
    del found["keys"][name]
    _replace(path, found)


def _replace(path: pathlib.Path, found: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(found))
    os.replace(fresh, path)


def rotate(path: pathlib.Path, algorithm: str = "AES-256-GCM") -> str:
    """Adds a fresh key to a ring's file and makes it current; its id. Processes take it up within a
    second."""
    found = json.loads(path.read_text())
    name = f"k{1 + max((int(n[1:]) for n in found['keys'] if n[1:].isdigit()), default=0)}"
    found["keys"][name], found["current"] = new_key(algorithm), name
    _replace(path, found)
    return name
