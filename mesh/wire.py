"""Bytes that are not the message they should be, and values that no database takes. Separate, because it
names the field, which the decoder does not."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh import contract, errors

_FIRST_SECOND, _LAST_SECOND = -62135596800, 253402300799  # years 1 to 9999


def settle(message: Any, of: contract.Shape, raw: bytes) -> None:
    """Invalid for text with a NUL character and for instants outside the years 1 to 9999, at any depth.
    Instants are cut to the microsecond, which is what gets kept. `raw`: the bytes it came as."""
    if b"\0" in raw:
        _refuse_nul(message, of, "")
    if of.timed:
        _settle_instants(message, of, "")


def _refuse_nul(message: Any, of: contract.Shape, path: str) -> None:
    for descriptor, value in message.ListFields():
        field = of.field(descriptor.name)
        if field.kind not in ("string", "message"):
            continue  # numbers may come in thousands
        for place, one in _each(field, value, path):
            if field.kind == "string" and "\x00" in one:
                raise errors.Invalid(place, "holds a NUL character")
            if field.message is not None:
                _refuse_nul(one, field.message, f"{place}.")


def _settle_instants(message: Any, of: contract.Shape, path: str) -> None:
    for field in of.timed:
        if not field.repeated and not message.HasField(field.name):
            continue
        for place, one in _each(field, getattr(message, field.name), path):
            if field.message is not None:
                _settle_instants(one, field.message, f"{place}.")
            elif not _FIRST_SECOND <= one.seconds <= _LAST_SECOND or not 0 <= one.nanos < 10**9:
                raise errors.Invalid(place, "is no instant of the years 1 to 9999")
            else:
                one.nanos -= one.nanos % 1000


def _each(field: contract.Field, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The values of a field, each with its path."""
    if not field.repeated:
        yield f"{path}{field.name}", value
        return
    for at, one in enumerate(value):
        yield f"{path}{field.name}[{at}]", one


def explain(raw: bytes, of: Descriptor) -> errors.Invalid:
    """A refusal that names the field at which the bytes break."""
    path, why = _walk(raw, of, "")
    return errors.Invalid(path or of.name, why or "is not a valid protobuf message")


def _walk(raw: bytes, of: Descriptor, path: str) -> tuple[str, str]:
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        field = of.fields_by_number.get(tag >> 3)
        where = f"{path}.{field.name}".lstrip(".") if field else path
        kind = tag & 7
        if at < 0 or kind in (3, 4, 6, 7) or tag >> 3 == 0:
            return where, "the message is broken off or not protobuf"
        if kind == 2:
            length, at = _varint(raw, at)
            if at < 0 or at + length > len(raw):
                return where, "the message is broken off"
            trouble = _inside(raw[at : at + length], field, where)
            if trouble[1]:
                return trouble
            at += length
        else:
            at = _varint(raw, at)[1] if kind == 0 else at + (8 if kind == 1 else 4)
            if at < 0 or at > len(raw):
                return where, "the message is broken off"
    return "", ""


def _inside(part: bytes, field: FieldDescriptor | None, where: str) -> tuple[str, str]:
    if field is not None and field.message_type is not None:
        return _walk(part, field.message_type, where)
    if field is not None and field.type == FieldDescriptor.TYPE_STRING:
        try:
            part.decode()
        except UnicodeDecodeError:
            return where, "is not valid UTF-8"
    return "", ""


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number and the place behind it, which is -1 when it is broken off."""
    value = shift = 0
    while 0 <= at < len(raw) and shift < 70:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
    return value, -1
