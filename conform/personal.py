"""What of a person shows in a message, by the annotations of its fields. Separate, because answers and
events are looked at alike."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from village.options.v1 import options_pb2

_STARRED = {
    options_pb2.PERSONAL_NAME, options_pb2.PERSONAL_PHONE, options_pb2.PERSONAL_ID_NUMBER,
    options_pb2.PERSONAL_ADDRESS, options_pb2.PERSONAL_BANK_ACCOUNT,
}  # fmt: skip


def fields(message: Message, path: str = "") -> Iterator[tuple[str, int, Any]]:
    """(path, kind, value) of every personal field that holds something, at any depth."""
    for field, held in message.ListFields():
        kind = field.GetOptions().Extensions[options_pb2.field].personal
        for n, value in enumerate(held if field.is_repeated else (held,)):
            here = f"{path}{field.name}" + (f"[{n}]" if field.is_repeated else "")
            if kind:
                yield here, kind, value
            elif isinstance(value, Message):
                yield from fields(value, f"{here}.")


def unmasked(message: Message) -> list[str]:
    """Personal fields, free text apart, that show more than their kind may."""
    return [path for path, kind, value in fields(message) if _shows(kind, value)]


def free_text(message: Message) -> list[str]:
    """Fields that hold what a person wrote."""
    return [path for path, kind, _ in fields(message) if kind == options_pb2.PERSONAL_FREE_TEXT]


def _shows(kind: int, value: Any) -> bool:
    if kind in _STARRED:
        text = str(value)
        return "*" not in text and not (kind == options_pb2.PERSONAL_NAME and len(text) < 2)
    if kind == options_pb2.PERSONAL_LOCATION:
        return any(abs(number - round(number, 2)) > 1e-9 for number in (value.latitude, value.longitude))
    return kind == options_pb2.PERSONAL_IDENTITY
