"""Personal data: the key ring, encryption at rest, sealed references, masks. Separate, so that one
module decides what a value looks like on disk, in an answer and in an event."""

import base64
import binascii
import dataclasses
import functools
import hmac
import json
import os
import pathlib
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import Message

from mesh import contract
from village.options.v1 import options_pb2


class BadKeyRing(SystemExit):
    """The key ring cannot be used; the process stops with this text."""


@dataclasses.dataclass(frozen=True)
class KeyRing:
    """Data keys by id. The file is JSON: `{"current": "k1", "keys": {"k1": BASE64 of 32 bytes, …},
    "index_key": BASE64 of 32 bytes}`; a new key is added beside the old ones and made current."""

    current: str
    keys: dict[str, AESGCM]
    index_key: bytes

    def encrypt(self, text: str, context: str) -> str:
        """AES-256-GCM as `KEYID:BASE64(nonce, ciphertext, tag)`, bound to `context`, so that a value
        copied to another record or field does not open. Empty text stays empty."""
        if not text:
            return ""
        nonce = os.urandom(12)
        sealed = self.keys[self.current].encrypt(nonce, text.encode(), context.encode())
        return f"{self.current}:{binascii.b2a_base64(nonce + sealed, newline=False).decode()}"

    def decrypt(self, value: str, context: str) -> str:
        """The text. ValueError when the value was altered, moved, or its key is gone."""
        if not value:
            return ""
        key, _, rest = value.partition(":")
        if key not in self.keys:
            raise ValueError(f"the key ring has no key {key!r}")
        raw = binascii.a2b_base64(rest)
        try:
            return self.keys[key].decrypt(raw[:12], raw[12:], context.encode()).decode()
        except InvalidTag as fault:
            raise ValueError(f"the value at {context} does not open") from fault

    def index(self, text: str, *, region: str, domain: str) -> str:
        """A keyed digest for equality, different in every (region, domain)."""
        key = _index_key(self.index_key, f"{region}/{domain}")
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")[:18]).decode()


@functools.lru_cache
def _index_key(key: bytes, pair: str) -> bytes:
    return hmac.digest(key, pair.encode(), "sha256")


def load(path: pathlib.Path) -> KeyRing:
    """Reads a key ring; stops the process when it cannot be used."""
    try:
        found = json.loads(path.read_text())
        keys = {name: AESGCM(base64.b64decode(key)) for name, key in found["keys"].items()}
        ring = KeyRing(found["current"], keys, base64.b64decode(found["index_key"]))
        ring.keys[ring.current]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise BadKeyRing(f"villagemesh: the key ring {path} cannot be used: {fault!r}") from fault
    return ring


def mask_name(name: str) -> str:
    """`张*` of two characters, `欧**娜` of more."""
    if len(name) <= 2:
        return name[:1] + "*" * (len(name) - 1)
    return name[0] + "*" * (len(name) - 2) + name[-1]


def mask_phone(phone: str) -> str:
    """`138****8000`: first three and last four of the national number."""
    digits = phone.removeprefix("+86").replace("-", "")
    return digits[:3] + "*" * max(len(digits) - 7, 1) + digits[-4:]


_MASKS: dict[int, Callable[[str], str]] = {
    options_pb2.PERSONAL_NAME: mask_name,
    options_pb2.PERSONAL_PHONE: mask_phone,
}


def mask(message: Message, of: contract.Shape) -> None:
    """Masks every personal field of a message in place, at any depth. Free text stays: who may see the
    record may read it."""
    for field in _touched(of):
        if field.personal in _MASKS:
            text = getattr(message, field.name)
            if text:
                setattr(message, field.name, _MASKS[field.personal](text))
        elif field.message is not None:
            for part in _parts(message, field):
                mask(part, field.message)


def risen(message: Message, of: contract.Shape, rises: int) -> Message:
    """A copy as far as it may leave the node: masked, and without free text unless `rises` is FULL."""
    copy = type(message)()
    copy.CopyFrom(message)
    mask(copy, of)
    if rises != options_pb2.RISES_FULL:
        _clear_free_text(copy, of)
    return copy


def _clear_free_text(message: Message, of: contract.Shape) -> None:
    for field in _touched(of):
        if field.personal == options_pb2.PERSONAL_FREE_TEXT:
            message.ClearField(field.name)
        elif field.message is not None:
            for part in _parts(message, field):
                _clear_free_text(part, field.message)


def _parts(message: Message, field: contract.Field) -> list[Message]:
    if field.repeated:
        return list(getattr(message, field.name))
    return [getattr(message, field.name)] if message.HasField(field.name) else []


def touches(of: contract.Shape) -> bool:
    """Whether a message holds personal data at any depth."""
    return bool(_touched(of))


_touched_fields: dict[str, tuple[contract.Field, ...]] = {}


def _touched(of: contract.Shape, above: frozenset[str] = frozenset()) -> tuple[contract.Field, ...]:
    """The fields of a message that are personal or hold some that are; worked out once. `above`: the
    messages it was reached through, because one inside itself adds nothing."""
    known = _touched_fields.get(of.full_name)
    if known is not None:
        return known
    inside = above | {of.full_name}
    found = tuple(
        f
        for f in of.fields
        if f.personal or (f.message and f.message.full_name not in inside and _touched(f.message, inside))
    )
    if not above:  # what was left out on the way here counts elsewhere
        _touched_fields[of.full_name] = found
    return found
