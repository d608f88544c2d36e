"""Requests made from a contract that nobody here wrote: a good one, or a word on why there is none."""

import pathlib
from typing import Any

import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

from conform import declared, requests, target
from tests.conform import broken
from tests.conform.served import Served

Field = descriptor_pb2.FieldDescriptorProto
REGION, DIVISION = "360423", "360423100201"


def method(*fields: Any, inner: Any = None) -> declared.Method:
    """A method whose request has these fields."""
    file = descriptor_pb2.FileDescriptorProto(
        name="village/fair/v1/fair.proto", package="village.fair.v1", syntax="proto3",
        dependency=["buf/validate/validate.proto"],
    )  # fmt: skip
    asked = file.message_type.add(name="AskRequest")
    asked.field.extend(fields)
    if inner is not None:
        asked.nested_type.append(inner)
    file.service.add(name="FairService").method.add(
        name="Ask", input_type=".village.fair.v1.AskRequest", output_type=".village.fair.v1.AskRequest"
    )
    pool = descriptor_pool.DescriptorPool()
    for name in ("google/protobuf/descriptor.proto", "google/protobuf/duration.proto",
                 "google/protobuf/field_mask.proto", "google/protobuf/timestamp.proto",
                 "buf/validate/validate.proto"):  # fmt: skip
        known = descriptor_pb2.FileDescriptorProto()
        descriptor_pool.Default().FindFileByName(name).CopyToProto(known)
        pool.AddSerializedFile(known.SerializeToString())
    pool.AddSerializedFile(file.SerializeToString())
    (found,) = pool.FindServiceByName("village.fair.v1.FairService").methods
    return declared.Method(found)


def text(name: str, number: int, **rules: Any) -> Any:
    found = Field(name=name, number=number, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    stated = found.options.Extensions[validate_pb2.field]
    stated.required = True
    stated.string.MergeFrom(validate_pb2.StringRules(**rules))
    return found


def maker() -> requests.Maker:
    return requests.Maker(REGION, DIVISION, {}, {})


@pytest.mark.parametrize(
    "rules",
    [
        {"pattern": "^[A-Z]{2}-[0-9]{4}$"},
        {"pattern": "^(north|south)-[^x]+$"},
        {"pattern": r"^\p{Han}{2,8}$"},
        {"pattern": "^[1-9][0-9]{11}$"},
        {"min_len": 40, "max_len": 41},
        {"len": 3},
        {"uuid": True},
        {"in": ["a", "b"]},
    ],
    ids=str,
)
def test_a_text_that_is_wanted_is_made_and_broken(rules: dict[str, Any]) -> None:
    asked = method(text("word", 1, **rules))
    made = maker()
    good = made.good(asked)
    assert made.wrong(good) == []
    broken_ones = list(made.broken(asked, good))
    assert broken_ones
    for path, rule, request in broken_ones:
        assert (path, rule) in {(p, r) for p, r, _ in made.wrong(request)}


def test_what_cannot_be_made_is_said() -> None:
    asked = method(text("word", 1, pattern=r"^\p{Greek}{7}$"))
    with pytest.raises(requests.CannotBeMade, match=r"word: .*--samples"):
        maker().good(asked)


def test_maps_and_messages_inside_themselves_make_no_trouble() -> None:
    entry = descriptor_pb2.DescriptorProto(name="TagsEntry", options={"map_entry": True})
    for name, number in (("key", 1), ("value", 2)):
        entry.field.add(name=name, number=number, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    tags = Field(name="tags", number=1, type=Field.TYPE_MESSAGE, label=Field.LABEL_REPEATED,
                 type_name=".village.fair.v1.AskRequest.TagsEntry")  # fmt: skip
    again = Field(name="again", number=2, type=Field.TYPE_MESSAGE, label=Field.LABEL_OPTIONAL,
                  type_name=".village.fair.v1.AskRequest")  # fmt: skip
    for field in (tags, again):
        field.options.Extensions[validate_pb2.field].required = True
    asked = method(tags, again, inner=entry)
    with pytest.raises(requests.CannotBeMade):
        maker().good(asked)
    assert isinstance(list(maker().broken(asked, asked.request())), list)


def test_an_endpoint_that_goes_away_ends_the_run(served: Served, tmp_path: pathlib.Path) -> None:
    server = broken.Broken(tmp_path, served.address)
    endpoint = target.Target(server.address)
    assert endpoint.services
    server.close()
    path = "/village.habitat.v1.ReportService/GetReport"
    for _ in range(target.SILENCES - 1):
        assert endpoint.ask(path, b"", {}).code == "UNAVAILABLE"
    with pytest.raises(target.Unreachable, match="does not answer any more"):
        endpoint.ask(path, b"", {})
