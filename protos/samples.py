"""Every event with every field filled, from the descriptors alone: what a release keeps as bytes, so that
today's consumers can be shown to read them."""

import base64
import contextlib
import itertools
import json
import re
import sqlite3
import uuid
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from protos import images
from village.options.v1 import options_pb2

REGION = "360423"
RANGE = 100
"""Numbers stay below it, so that any kind of number holds them."""


def events(image: images.Image) -> str:
    """The events of an image as JSON: by name their bytes, and their values in the JSON mapping. Those of one
    kind of resource are steps of one record."""
    found: dict[str, Any] = {}
    steps: dict[str, int] = {}
    for name in sorted(image.events()):
        event = image.cls(name)()
        _fill(event, deep=0)
        about = image.resource(name).plural
        at, steps[about] = uuid.uuid5(uuid.NAMESPACE_URL, about), steps.get(about, 0) + 1
        record = getattr(event, event.DESCRIPTOR.fields_by_number[1].name)
        record.name = f"regions/{REGION}/{about}/{at}"
        _keep(record, image.messages[record.DESCRIPTOR.full_name].options.Extensions[options_pb2.resource])
        if "etag" in record.DESCRIPTOR.fields_by_name:
            record.etag = str(steps[about])
        raw = event.SerializeToString(deterministic=True)
        found[name] = {"bytes": base64.b64encode(raw).decode(), "value": json_format.MessageToDict(event)}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).replace('},"village', '},\n"village')


def _fill(message: Message, *, deep: int, turn: int = 0) -> None:
    """Gives every field a value that tells it from its neighbours; of a oneof, one field in each turn."""
    for field in message.DESCRIPTOR.fields:
        others = field.containing_oneof.fields if field.containing_oneof else [field]
        if others[turn % len(others)].number != field.number or deep > 6:
            continue
        if field.message_type is None:
            value = _value(field)
            if field.is_repeated:
                getattr(message, field.name).extend([value] * 2)
            else:
                setattr(message, field.name, value)
        elif field.is_repeated:
            for again in range(2):
                _fill(getattr(message, field.name).add(), deep=deep + 1, turn=again)
        else:
            _fill(getattr(message, field.name), deep=deep + 1)


def _value(field: Any) -> Any:
    number, text = field.number % RANGE, f"{field.name} {field.number}"
    if field.enum_type is not None:
        values = [value.number for value in field.enum_type.values]
        return values[number % len(values)] or values[-1]
    return {
        field.CPPTYPE_STRING: text.encode() if field.type == field.TYPE_BYTES else text,
        field.CPPTYPE_BOOL: True,
        field.CPPTYPE_DOUBLE: number + 0.5,
        field.CPPTYPE_FLOAT: number + 0.5,
    }.get(field.cpp_type, number)


def _keep(record: Any, rule: Any) -> None:
    """Gives the fields that a resource's checks compare the first small numbers that meet them all."""
    checks = " AND ".join(f"({check})" for check in rule.checks)
    names = [f for f in record.DESCRIPTOR.fields_by_name if re.search(rf"\b{f}\b", checks)]
    if not names:
        return
    asked = f"SELECT {checks} FROM (SELECT {', '.join(f'? AS {name}' for name in names)})"
    with contextlib.closing(sqlite3.connect(":memory:")) as asking:
        numbers = itertools.product((1, 2, 3), repeat=len(names))
        found = next(n for n in numbers if asking.execute(asked, n).fetchone()[0])
    for name, number in zip(names, found, strict=True):
        setattr(record, name, number)
