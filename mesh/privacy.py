"""Personal data: what each kind looks like in an answer, in an event and to a search. Separate, so that one
module decides what of a person is shown to whom."""

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from mesh import contract
from village.options.v1 import options_pb2


def mask_name(name: str) -> str:
    """`张*` of two characters, `欧**娜` of more."""
    if len(name) <= 2:
        return name[:1] + "*" * (len(name) - 1)
    return name[0] + "*" * (len(name) - 2) + name[-1]


def mask_phone(phone: str) -> str:
    """`138****8000`: first three and last four of the national number."""
    digits = phone.removeprefix("+86").replace("-", "")
    return digits[:3] + "*" * max(len(digits) - 7, 1) + digits[-4:]


def mask_id_number(number: str) -> str:
    """`360423********0007`: first six and last four characters."""
    return (
        number[:6] + "*" * max(len(number) - 10, 1) + number[-4:] if len(number) > 10 else "*" * len(number)
    )


def mask_address(address: str) -> str:
    """`江西省武宁县新宁镇****`: down to the township, else to the county, else nothing."""
    found = re.match(r".*?(?:镇|乡|街道|苏木)|.*[县区旗市]", address)
    return f"{found[0] if found else ''}****"


def mask_bank_account(account: str) -> str:
    """`**** **** **** 1234`: the last four digits."""
    return f"**** **** **** {account[-4:]}" if len(account) > 8 else "****"


_MASKS: dict[int, Callable[[str], str]] = {
    options_pb2.PERSONAL_NAME: mask_name,
    options_pb2.PERSONAL_PHONE: mask_phone,
    options_pb2.PERSONAL_ID_NUMBER: mask_id_number,
    options_pb2.PERSONAL_ADDRESS: mask_address,
    options_pb2.PERSONAL_BANK_ACCOUNT: mask_bank_account,
    options_pb2.PERSONAL_IDENTITY: lambda _: "",
}


def canonical(text: str, personal: int) -> str:
    """A value as searches compare it: telephone numbers as digits, ID numbers and accounts without spaces
    and in capitals, everything else without spaces around it."""
    if personal == options_pb2.PERSONAL_PHONE:
        return re.sub(r"\D", "", text.removeprefix("+86"))
    if personal in (options_pb2.PERSONAL_ID_NUMBER, options_pb2.PERSONAL_BANK_ACCOUNT):
        return re.sub(r"\s", "", text).upper()
    return text.strip()


def mask(message: Message, of: contract.Shape) -> None:
    """Masks every personal field of a message in place, at any depth. Free text stays: who may see the
    record may read it."""
    for field in _touched(of):
        if field.personal in _MASKS:
            _set_masked(message, field)
        elif field.personal == options_pb2.PERSONAL_LOCATION:
            for place in _parts(message, field):
                _blur(place)
        elif field.message is not None:
            for part in _parts(message, field):
                mask(part, field.message)


def _set_masked(message: Any, field: contract.Field) -> None:
    hide, value = _MASKS[field.personal], getattr(message, field.name)
    if field.repeated:
        value[:] = [hide(text) for text in value]
    elif value:
        setattr(message, field.name, hide(value))


def _blur(place: Any) -> None:
    """Coordinates to a hundredth of a degree."""
    place.latitude, place.longitude = round(place.latitude, 2), round(place.longitude, 2)


def erase(message: Message, of: contract.Shape) -> None:
    """Empties every personal field of a message in place, at any depth, free text included."""
    for field in _touched(of):
        if field.personal or field.sealed:
            message.ClearField(field.name)
        elif field.message is not None:
            for part in _parts(message, field):
                erase(part, field.message)


def sealed_texts(message: Message, of: contract.Shape) -> dict[str, str]:
    """What is under seal in a resource, by path, as in `contact.phone`."""
    found: dict[str, str] = {}
    for field in of.fields:
        if field.sealed:
            found.update(_texts(message, field, field.name))
    return found


def _texts(message: Message, field: contract.Field, path: str) -> dict[str, str]:
    if field.message is None:
        text = getattr(message, field.name)
        return {path: text} if text else {}
    found: dict[str, str] = {}
    for part in _parts(message, field):
        for inner in _touched(field.message):
            found.update(_texts(part, inner, f"{path}.{inner.name}"))
    return found


def risen(message: Any, of: contract.Shape, rises: int) -> Any:
    """A copy as far as it may leave the node: masked, and without free text unless `rises` is FULL. Of what
    may rise as counts at most, or never, only name and version."""
    copy = type(message)()
    if rises in (options_pb2.RISES_COUNTS, options_pb2.RISES_NEVER):
        for field in ("name", "etag"):
            if field in of.by_name:
                setattr(copy, field, getattr(message, field))
        return copy
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
