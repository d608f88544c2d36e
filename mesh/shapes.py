"""Whether a message has the shape that its contract states (`buf.validate`). Separate, because a request is
checked when it comes, and a record that is changed in part when the part is in its place."""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from mesh import errors

_validator = protovalidate.Validator()


def check(message: Message, *, within: str = "", spared: str = "") -> None:
    """Invalid with every field that is not as stated. `within`: where the message stands in the request;
    `spared`: the field that is not looked at yet."""
    found = [(_path(v.proto.field), v.proto.message) for v in _validator.collect_violations(message)]
    begins = f"{within}." if within else ""
    wrong = [(begins + path, why) for path, why in found if not spared or path.partition(".")[0] != spared]
    if wrong:
        raise errors.Invalid.several(wrong)


def _path(field: Any) -> str:
    """A field path as people write it: `actions[3].accept.name`."""
    text = ""
    for element in field.elements:
        text += f".{element.field_name}" if text else element.field_name
        if element.subscript is not None and element.subscript.field == "index":
            text += f"[{element.subscript.value}]"
    return text
