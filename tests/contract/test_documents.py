"""The OpenAPI and AsyncAPI documents of every domain: valid, whole, in both languages, with examples of tests
that there are."""

import functools
import json
import pathlib
import re
from typing import Any

import openapi_spec_validator
import pytest

from gateway import contracts, published
from mesh import contract
from village.options.v1 import options_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOMAINS = published.domains(published.read(contracts.GENERATED / "village.binpb"))
FILES = {"UploadAttachment", "StreamReadings", "DrawMap"}
"""Methods without an example, because what they send or answer is a file or a stream."""
NODES = {f"{verb}Region" for verb in ("Assume", "Export", "Freeze", "Import", "Reduce", "Sum")} | {
    *("DigestRecords", "FetchRecords", "PullLog", "SetEventsAside", "ReconcileCopy", "GetCondition")
}
"""Methods without one, because only nodes call them."""
RARE = {
    "DropDeadLetter",
    "ReplayDeadLetter",
    "GetDeadLetter",
    "ListDeadLetters",
    "GetDelivery",
    "ListDeliveries",
}
"""Methods without one, because they need a fault or a line that is away first."""


@functools.cache
def document(domain: str, kind: str = "openapi") -> Any:
    return json.loads((contracts.GENERATED / f"documents/{domain}.{kind}.json").read_text())


def operations(domain: str) -> dict[str, Any]:
    return {o["operationId"]: o for path in document(domain)["paths"].values() for o in path.values()}


@functools.cache
def examples(domain: str) -> dict[str, Any]:
    return json.loads((ROOT / f"protos/village/{domain}/v1/examples.json").read_text())


@pytest.mark.parametrize("domain", DOMAINS)
class TestOpenapi:
    def test_is_valid(self, domain: str) -> None:
        openapi_spec_validator.validate(document(domain))

    def test_has_every_method_once(self, domain: str) -> None:
        methods = contract.read(f"village.{domain}.v1").methods
        assert set(operations(domain)) == set(methods)

    def test_says_what_it_is_in_chinese(self, domain: str) -> None:
        without = [
            f"{name}.{field}"
            for name, schema in document(domain)["components"]["schemas"].items()
            if not name.startswith("google.")
            for field, of in schema.get("properties", {}).items()
            if "title" not in of
        ]
        assert without == [], "add them to protos/terms.zh.json"
        plain = [
            name for name, o in operations(domain).items() if not re.search("[\u4e00-\u9fff]", o["summary"])
        ]
        assert plain == []

    def test_explains_every_reason(self, domain: str) -> None:
        reasons = document(domain)["components"]["schemas"]["ErrorReason"]
        for reason in reasons["enum"]:
            assert f"`{reason}`: " in reasons["description"]

    def test_shows_each_method_with_what_went_through(self, domain: str) -> None:
        silent = {n for n in operations(domain) if n.startswith("Download")} | FILES | NODES | RARE
        assert set(operations(domain)) - set(examples(domain)) == silent

    def test_names_the_tests_that_see_its_examples_again(self, domain: str) -> None:
        found = examples(domain)
        for example in [*(e for k, e in found.items() if k != "events"), *found["events"].values()]:
            file, *names = re.sub(r"\[.*", "", example["test"]).split("::")
            text = (ROOT / file).read_text()
            assert all(re.search(rf"(class|def) {name}\b", text) for name in names), example["test"]


@pytest.mark.parametrize("domain", DOMAINS)
class TestAsyncapi:
    def test_has_a_channel_for_every_event(self, domain: str) -> None:
        events = contract.read(f"village.{domain}.v1").events
        channels = document(domain, "asyncapi")["channels"]
        assert {f"village.{domain}.v1.{name}" for name in channels} == set(events)
        for name, channel in channels.items():
            event = events[f"village.{domain}.v1.{name}"]
            singular = contract.resource(event.cls.DESCRIPTOR.fields[0].message_type._concrete_class).singular
            assert channel["address"].endswith(f".{domain}.{contract.snake(singular)}.{event.verb}")

    def test_says_what_leaves(self, domain: str) -> None:
        found = document(domain, "asyncapi")["components"]["messages"]
        for name, event in contract.read(f"village.{domain}.v1").events.items():
            rises = contract.resource(event.cls.DESCRIPTOR.fields[0].message_type._concrete_class).rises
            masked = rises == options_pb2.RISES_MASKED
            assert ("masked" in found[name.rpartition(".")[2]]["description"]) == masked
