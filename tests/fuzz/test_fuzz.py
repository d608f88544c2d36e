"""Fuzz (I6), from the descriptors: for every method raw bytes, bytes of a good request with some changed, and
random and boundary messages. VILLAGEMESH_FUZZ says how many for each, a fifth where one handler serves many
methods alike; `make nightly` takes 20,000."""

import json
import os
import pathlib
import random
import resource
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh import contract, errors, records, statuses
from services.habitat.service import SERVICE
from tests import samples
from tests.contract.test_access import requests
from tests.county import PHOTO, County
from tests.loop import file, reach

COUNT = int(os.environ.get("VILLAGEMESH_FUZZ", "300"))
FOUND = contract.read("village.habitat.v1")
TEXTS = [
    "", "a", "0", "\x00", "字", "\U0010ffff", "a" * 3000, "regions/360423", "regions/360423/reports/x",
    "360423100201",
    "../../etc/passwd", "%s%n", "' OR 1=1 --", '{"a":1}', "2026-03-01T00:00:00Z", "-1", "\u202e", " ",
    "state = ASSIGNED", "due_time desc", "eyJh", "a,b", "*",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 99, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
DOUBLES = [0.0, -0.0, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 29.26, 115.1, 5e-324]


@pytest.fixture
def database_url(tmp_path: pathlib.Path) -> str:
    return f"sqlite:///{tmp_path}/{{domain}}.db"


def scramble(draw: random.Random, message: Any, depth: int = 0) -> None:
    """Changes fields of a message at random, at any depth."""
    of: Descriptor = message.DESCRIPTOR
    for field in of.fields:
        chance = draw.random()
        if chance < 0.55:
            continue
        if chance < 0.65:
            message.ClearField(field.name)
            continue
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if depth > 4:
                continue
            for _ in range(draw.choice([1, 1, 1, 2, 12]) if field.is_repeated else 1):
                if field.is_repeated:
                    scramble(draw, getattr(message, field.name).add(), depth + 1)
                else:
                    getattr(message, field.name).SetInParent()
                    scramble(draw, getattr(message, field.name), depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(value(draw, field) for _ in range(draw.choice([1, 3, 300])))
        else:
            setattr(message, field.name, value(draw, field))


def value(draw: random.Random, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.randbytes(draw.choice([0, 1, 40, 5000]))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return draw.choice(TEXTS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return draw.choice(DOUBLES)
    number = draw.choice(NUMBERS)
    small = field.cpp_type in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM)
    return max(min(number, 2**31 - 1), -(2**31)) if small else number


def changed(draw: random.Random, raw: bytes) -> bytes:
    found = bytearray(raw or b"\0")
    for _ in range(draw.randint(1, 4)):
        found[draw.randrange(len(found))] = draw.randrange(256)
    return bytes(found[: draw.randint(1, len(found))]) if draw.random() < 0.3 else bytes(found)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    """A county that all methods may leave as they like, but those by which nodes take it away."""
    folder = tmp_path_factory.mktemp("fuzz")
    found = County(folder, f"sqlite:///{folder}/{{domain}}.db")
    yield found
    found.close()


@pytest.mark.parametrize("name", FOUND.methods)
def test_never_a_fault_whatever_comes(request: pytest.FixtureRequest, name: str) -> None:
    county: County = request.getfixturevalue("county" if FOUND.methods[name].of_nodes else "shared")
    draw, method = random.Random(name), FOUND.methods[name]
    record = reach(county, "ASSIGNED", photos=[PHOTO]).name
    known = requests(county, record)
    good = known[name] if name in known else samples.request(samples.methods("village.habitat.v1")[name])
    allowed = {role for rule in method.rules for role in rule.roles}
    roles = [r for r in ("KA", "TO", "VO", "CZ") if not allowed or r in allowed] or sorted(allowed)[:1]
    headers = {"authorization": f"Bearer {county.token('county', roles=roles)}"}
    if method.of_nodes:
        headers = county.as_node()
    before, answered = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    alike = getattr(SERVICE.handlers.get(name), "__module__", "") == records.__name__
    for n in range(COUNT // 5 if alike else COUNT):
        if n % 3 == 0:
            raw = draw.randbytes(draw.choice([0, 1, 7, 60, 900]))
        elif n % 3 == 1:
            raw = changed(draw, good.SerializeToString())
        else:
            made = type(good)()
            made.CopyFrom(good)
            scramble(draw, made)
            raw = made.SerializeToString()
        refusal = None
        try:
            county.raw(name, raw, headers)
            answered += 1
        except errors.Refusal as refused:
            refusal = refused
        assert not isinstance(refusal, errors.Internal), raw.hex()
        if refusal is not None:
            assert statuses.status(refusal).ByteSize() < 6_000, "trailers hold 8 KiB"
    if method.read_only and not method.streams_out:
        assert answered or name.startswith(("Get", "Download", "BatchGet", "List", "Grade"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB more"


def test_answers_of_all_kinds_are_json(county: County) -> None:
    """What the gateway makes of an answer it can make of every one."""
    report = file(county, observe_time={"seconds": -62135596800})
    assert json.loads(json_format.MessageToJson(report))
