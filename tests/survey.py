"""Reads, lists, updates and at last calls off a record of each kind that a test has left, as somebody who
may: what the journeys have no reason to do, and the documents show."""

from collections.abc import Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from mesh import contract, errors
from tests.loop import rows
from tests.through import ThroughGateway

ENDS = ("Cancel", "Discard", "Withdraw", "Reject", "Fail")
_FIXED = {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IMMUTABLE, field_behavior_pb2.IDENTIFIER}
WHO: tuple[tuple[str, dict[str, Any]], ...] = (
    ("county", {}), ("county_2", {}), ("town", {}), ("province", {}), ("farm", {}), ("lab", {}), ("device",
    {}), ("resident", {}), ("county", {"roles": ["PA"], "organisation": None}), ("keeper", {}),
    ("administrator", {}), ("security", {}),
)  # fmt: skip


def take(county: ThroughGateway, wanted: set[str] | None) -> None:
    """Asks; only for the methods that are `wanted`, where it is given."""
    if wanted is not None and not wanted:
        return
    for method, request in _asked(county):
        if wanted is not None and method not in wanted:
            continue
        for who, claims in WHO:
            try:
                county.call(who, request, **claims)
            except errors.Refusal:
                continue
            break


def _asked(county: ThroughGateway) -> Iterator[tuple[str, Message]]:
    methods = county.contract.methods
    ends: list[tuple[str, Any, str]] = []
    here = f"regions/{county.region}"
    for listed in ("Delegations", "Unsealings"):
        yield f"List{listed}", methods[f"List{listed}"].request(parent=here)
    for resource in county.contract.resources.values():
        camel = resource.cls.DESCRIPTOR.name
        found = rows(county, f"SELECT name FROM {resource.table} ORDER BY name LIMIT 5")
        for n, (name,) in enumerate(found):
            ends += [
                (end, methods[end].request, name) for end in (f"{v}{camel}" for v in ENDS) if end in methods
            ]
            if n:
                continue
            if (get := methods.get(f"Get{camel}")) is not None:
                yield get.name, get.request(name=name)
            plural = resource.plural[0].upper() + resource.plural[1:]
            if (listed := methods.get(f"List{plural}")) is not None:
                asked = listed.request(parent=name.rsplit("/", 2)[0])
                asked.page_size = 2
                yield listed.name, asked
            if (steps := methods.get(f"List{camel}Steps")) is not None:
                yield steps.name, steps.request(parent=name)
            update = methods.get(f"Update{camel}")
            if update is not None and (changed := _changed(county, update, resource, name)) is not None:
                yield update.name, changed
    for end, request, name in ends:
        said = {"reason": "情况有变"} if "reason" in request.DESCRIPTOR.fields_by_name else {}
        yield end, request(name=name, **said)


def _changed(
    county: ThroughGateway, method: contract.Method, resource: contract.Resource, name: str
) -> Message | None:
    """An update of the first text or number that may be changed, to what it is."""
    row = county.store.row(county.store.codec(resource.cls), name)
    if row is None:
        return None
    within = contract.snake(resource.singular)
    for field in sorted(resource.cls.DESCRIPTOR.fields, key=lambda f: f.name != "title"):
        behaviors = set(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])
        if field.message_type or field.is_repeated or behaviors & _FIXED or field.name in ("name", "etag"):
            continue
        if getattr(row.message, field.name):
            part = {field.name: getattr(row.message, field.name)}
            mask = field_mask_pb2.FieldMask(paths=[field.name])
            return method.request(**{"name": name, within: part, "update_mask": mask})
    return None
