"""A good request for every method, made from what its contract states of each field. Separate from the tests
that send them, which all domains share."""

import functools
import re
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from mesh import contract, resources
from tests.county import MONDAY, REGION, VILLAGE, VILLAGE_UNIT
from village.habitat.v1 import report_policy_pb2, station_pb2
from village.options.v1 import options_pb2

BLANK = "00000000-0000-4000-8000-000000000000"
PARENT, ID = f"regions/{REGION}", BLANK
PLACES = (PARENT, VILLAGE, VILLAGE[:9], REGION, VILLAGE_UNIT, f"{REGION}19000101{'0007'}")
FIXED: dict[str, dict[str, Any]] = {
    "google.type.LatLng": {"latitude": 29.26, "longitude": 115.1},
    "google.type.Decimal": {"value": "1"},
    "google.type.Date": {"year": 2026, "month": 3, "day": 2},
    "google.protobuf.Duration": {"seconds": 3600},
    "google.protobuf.FieldMask": {},
}
BLANK = "00000000-0000-4000-8000-000000000000"
GIVEN: dict[str, dict[str, Any]] = {
    "IssueReportPolicy": {
        "report_policy": report_policy_pb2.ReportPolicy(
            basis="x", accept_working_days=1, assign_working_days=1, return_working_days=1,
            verify_working_days=1, feedback_working_days=1, dispute_working_days=1, escalate_working_days=1,
            extension_working_days=1, rectify_limits=[{"level": n, "working_days": 1} for n in (1, 2, 3)],
            effective_time={"seconds": 2_000_000_000},
        )
    },
    "CreateStation": {
        "station": station_pb2.Station(
            title="x", division=f"{REGION}100201", location={"latitude": 29.26, "longitude": 115.1}, kind=1,
            instruments=[{"factor": "w01018", "low": 0, "high": 500, "interval_s": 3600}],
        )
    },
}  # fmt: skip
"""What a rule over several fields wants in a good request."""
_behavior = field_behavior_pb2.field_behavior
_validator = protovalidate.Validator()


@functools.cache
def http_path(method: MethodDescriptor) -> str:
    """The URL template of a method, or empty."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    return str(rule.get or rule.post or rule.patch or rule.put or rule.delete)


def methods(package: str) -> dict[str, MethodDescriptor]:
    """The methods of a package, by name."""
    return {
        method.name: method
        for module in contract.modules(package)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def request(method: MethodDescriptor, **given: Any) -> Any:
    """A request that its contract accepts; `given` says what else is to stand at its top."""
    of = method.input_type
    made: Any = message_factory.GetMessageClass(of)()
    _fill(made, of.full_name.rpartition(".")[2])
    if "update_mask" in of.fields_by_name:  # a change of nothing, whatever the record looks like
        made.update_mask.Clear()
        getattr(made, next(f.name for f in of.fields if f.message_type and f.name != "update_mask")).Clear()
    place = re.search(r"\{(name|parent)=regions/\*(?:/(\w+)/\*)?", http_path(method))
    if place and place[1] in of.fields_by_name:
        setattr(made, place[1], f"{PARENT}/{place[2]}/{ID}" if place[2] else PARENT)
    for name, value in {**GIVEN.get(method.name, {}), **given}.items():
        if of.fields_by_name[name].message_type:
            getattr(made, name).CopyFrom(value)
        else:
            setattr(made, name, value)
    if "update_mask" in of.fields_by_name:
        return made
    wrong = [v.proto for v in _validator.collect_violations(made)]
    assert not wrong, f"no good request for {method.full_name}: {wrong}"
    return made


def resource_of(method: MethodDescriptor) -> contract.Resource | None:
    """The record that a method is about, by what it takes, answers or is named after."""
    for of in (method.output_type, *(f.message_type for f in method.input_type.fields if f.message_type)):
        if of.GetOptions().HasExtension(resource_pb2.resource):
            return contract.resource(message_factory.GetMessageClass(of))
    return None


def _fill(message: Any, why: str) -> None:
    of = message.DESCRIPTOR
    if of.full_name in FIXED:
        for name, value in FIXED[of.full_name].items():
            setattr(message, name, value)
        return
    if of.full_name == contract.TIMESTAMP:
        message.CopyFrom(resources.stamp(MONDAY))
        return
    chosen = {group.fields[0].name for group in of.oneofs if len(group.fields) > 1}
    for field in of.fields:
        options = field.GetOptions()
        rules, behaviors = options.Extensions[validate_pb2.field], options.Extensions[_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviors or field_behavior_pb2.IDENTIFIER in behaviors:
            continue
        division = options.Extensions[options_pb2.field].meaning == options_pb2.MEANING_DIVISION
        needed = field_behavior_pb2.REQUIRED in behaviors or rules.required or division
        if not needed and field.name not in chosen and not (field.is_repeated and rules.repeated.min_items):
            continue
        if field.is_repeated:
            for _ in range(max(rules.repeated.min_items, 1)):
                if field.message_type:
                    _fill(getattr(message, field.name).add(), why)
                else:
                    getattr(message, field.name).append(_value(field, rules.repeated.items))
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), why)
        else:
            setattr(message, field.name, _value(field, rules))


def _value(field: Any, rules: Any) -> Any:
    if field.enum_type:
        known = getattr(rules.enum, "in") or [v.number for v in field.enum_type.values]
        return next(n for n in known if n and n not in rules.enum.not_in)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return rules.string and _text(field, rules.string) if field.type != field.TYPE_BYTES else b"x"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    kind = rules.WhichOneof("type")
    return _number(getattr(rules, kind)) if kind else 1


def _text(field: Any, rules: Any) -> str:
    if rules.uuid:
        return BLANK
    if some := getattr(rules, "in"):
        return str(some[0])
    if not rules.pattern:
        return "字" * max(rules.min_len, rules.len, 1)
    for place in PLACES:
        if re.search(rules.pattern, place):
            return place
    found = _smallest(_parser.parse(rules.pattern))
    return re.sub(r"^regions/\d{6}", PARENT, found)


def _smallest(parsed: Any) -> str:
    """The least text that a pattern takes."""
    text = ""
    for kind, what in parsed:
        name = str(kind)
        if name == "LITERAL":
            text += chr(what)
        elif name == "IN":
            first, value = what[0]
            text += chr(value[0] if str(first) == "RANGE" else value) if str(first) != "CATEGORY" else "0"
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            text += _smallest(what[2]) * what[0]
        elif name == "SUBPATTERN":
            text += _smallest(what[3])
        elif name == "BRANCH":
            text += _smallest(what[1][0])
        elif name in ("ANY", "NOT_LITERAL"):
            text += "a"
        else:
            assert name == "AT", f"a pattern with {name}"
    return text


def _number(rules: Any) -> Any:
    low = rules.gte if rules.HasField("gte") else rules.gt if rules.HasField("gt") else None
    high = rules.lte if rules.HasField("lte") else rules.lt if rules.HasField("lt") else None
    one = 1 if low is None or low < 1 or (low == 1 and rules.HasField("gte")) else low + 1
    return one if high is None or one <= high else high if low is None else (low + high) / 2
