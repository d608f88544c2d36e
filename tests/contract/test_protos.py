"""What every village package must state: permission, URL, comments, pages, events. Walks the packages that
there are, so that a new one is held to the same."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2

from cli.serve import service
from gateway import enrolment
from mesh import contract, errors, flows
from village.options.v1 import options_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = {
    file.name: file
    for file in descriptor_pb2.FileDescriptorSet.FromString((ROOT / "gen/village.binpb").read_bytes()).file
    if file.name.startswith("village/")
}
PACKAGES = sorted({file.package for file in FILES.values()})
SERVICES = sorted(p.parent.name for p in (ROOT / "services").glob("*/service.py"))
METHODS = [
    (file.name, service_.name, method)
    for file in FILES.values()
    for service_ in file.service
    for method in service_.method
]
WITHOUT_URL: set[str] = set()
"""Methods that only gRPC serves."""
WITHOUT_ROLES = {options_pb2.SCOPE_PUBLIC, options_pb2.SCOPE_NODE}
"""Scopes whose callers have no role: strangers, and nodes of the mesh, whose certificate-bound token
counts."""
SAFE_WITHOUT_REQUEST_ID = {
    "EnrolNode": "its code counts once, and a repetition is refused",
    "RenewBundle": "a repetition sets what is set already, and answers the same bundle",
    "FreezeRegion": "what is frozen stays frozen",
    "ExportRegion": "it changes nothing",
    "ImportRegion": "a page that is there already is not added again",
    "SumRegion": "it changes nothing",
    "ReduceRegion": "what is reduced stays reduced",
    "AssumeRegion": "what rings already is not wound up again",
    "SetEventsAside": "an event that was set aside is not set aside again",
}
"""Methods that change something and are safe to repeat by themselves."""
ENVELOPES = {"village.mesh.v1.LinkCall", "village.mesh.v1.LinkAnswer"}
"""Messages that carry a call between nodes, headers and all; they are neither kept nor shown."""


def messages(of: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for message in of:
        yield f"{prefix}.{message.name}", message
        yield from messages(message.nested_type, f"{prefix}.{message.name}")


ALL_MESSAGES = {
    name: message for file in FILES.values() for name, message in messages(file.message_type, file.package)
}


def allowed(name: str, service_: str, method: Any) -> Any:
    """Who may call a method: as it says, or as its service says."""
    if method.options.HasExtension(options_pb2.access):
        return method.options.Extensions[options_pb2.access]
    (whole,) = (s.options for s in FILES[name].service if s.name == service_)
    reads = method.options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    return whole.Extensions[options_pb2.reads if reads else options_pb2.writes]


def undocumented(file: Any) -> list[str]:
    """Elements of a file without a comment, by their path of names."""
    comments = {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}
    found: list[str] = []

    def look(path: tuple[int, ...], name: str) -> None:
        if not comments.get(path):
            found.append(name)

    def look_at_enum(path: tuple[int, ...], enum: Any, prefix: str) -> None:
        look(path, f"{prefix}{enum.name}")
        for i, value in enumerate(enum.value):
            look((*path, 2, i), f"{prefix}{enum.name}.{value.name}")

    def look_at_message(path: tuple[int, ...], message: Any, prefix: str) -> None:
        name = f"{prefix}{message.name}"
        look(path, name)
        for i, field in enumerate(message.field):
            look((*path, 2, i), f"{name}.{field.name}")
        for i, nested in enumerate(message.nested_type):
            if nested.options.map_entry:
                continue  # the compiler made it: there is no line to comment
            look_at_message((*path, 3, i), nested, f"{name}.")
        for i, enum in enumerate(message.enum_type):
            look_at_enum((*path, 4, i), enum, f"{name}.")

    for i, service_ in enumerate(file.service):
        look((6, i), service_.name)
        for k, method in enumerate(service_.method):
            look((6, i, 2, k), f"{service_.name}.{method.name}")
    for i, message in enumerate(file.message_type):
        look_at_message((4, i), message, "")
    for i, enum in enumerate(file.enum_type):
        look_at_enum((5, i), enum, "")
    for i, extension in enumerate(file.extension):
        look((7, i), extension.name)
    return found


class TestEveryFile:
    @pytest.mark.parametrize("name", FILES)
    def test_comments_every_element(self, name: str) -> None:
        assert undocumented(FILES[name]) == []

    def test_would_be_caught_without_a_comment(self) -> None:
        bare = descriptor_pb2.FileDescriptorProto()
        bare.CopyFrom(FILES["village/type/v1/step.proto"])
        del bare.source_code_info.location[:]
        assert "Step.reason" in undocumented(bare)

    @pytest.mark.parametrize("name", FILES)
    def test_lies_where_its_package_says(self, name: str) -> None:
        assert name.rpartition("/")[0] == FILES[name].package.replace(".", "/")


@pytest.mark.parametrize(
    ("name", "service_", "method"), METHODS, ids=[f"{s}.{m.name}" for _, s, m in METHODS]
)
class TestEveryMethod:
    def test_says_who_may_call_it(self, name: str, service_: str, method: Any) -> None:
        rules = allowed(name, service_, method).allow
        assert rules
        for rule in rules:
            assert rule.scope
            assert bool(rule.roles) != (rule.scope in WITHOUT_ROLES)
            assert options_pb2.ROLE_SYS not in rule.roles

    def test_has_a_url_below_its_domain(self, name: str, service_: str, method: Any) -> None:
        rule = method.options.Extensions[annotations_pb2.http]
        url = rule.get or rule.post or rule.patch or rule.delete
        assert bool(url) == (f"{service_}.{method.name}" not in WITHOUT_URL)
        _, domain, version = FILES[name].package.split(".")
        if service_ == "ContractService":  # the node's own, of every domain
            domain = "{domain}"
        assert url.startswith(f"/{domain}/{version}/")
        asked = {f.name for f in ALL_MESSAGES[method.input_type.lstrip(".")].field}
        assert set(re.findall(r"\{([a-z_.]+)=", url)) <= asked
        reads = method.options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        assert reads == bool(rule.get)

    def test_pages_when_it_lists(self, name: str, service_: str, method: Any) -> None:
        if not method.name.startswith("List"):
            return
        asked = {f.name: f for f in ALL_MESSAGES[method.input_type.lstrip(".")].field}
        answered = ALL_MESSAGES[method.output_type.lstrip(".")].field
        assert {"parent", "page_size", "page_token"} <= set(asked)
        assert "next_page_token" in {f.name for f in answered}
        assert answered[0].label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED

    def test_can_be_repeated_safely_when_it_changes_something(
        self, name: str, service_: str, method: Any
    ) -> None:
        asked = {f.name for f in ALL_MESSAGES[method.input_type.lstrip(".")].field}
        reads = method.options.idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
        if method.client_streaming or allowed(name, service_, method).reveals:
            return  # by its content; and what is revealed is not kept for a repetition
        if method.name in SAFE_WITHOUT_REQUEST_ID:
            assert not reads
            assert "request_id" not in asked
            return
        assert reads != ("request_id" in asked)
        if not reads and "name" in asked:
            assert "etag" in asked

    def test_says_of_every_field_how_it_behaves(self, name: str, service_: str, method: Any) -> None:
        for field in ALL_MESSAGES[method.input_type.lstrip(".")].field:
            if not field.HasField("oneof_index"):
                assert field.options.Extensions[field_behavior_pb2.field_behavior], field.name


class TestEveryResource:
    def test_has_its_name_first_and_says_what_may_leave(self) -> None:
        seen = 0
        for name, message in ALL_MESSAGES.items():
            if not message.options.HasExtension(resource_pb2.resource):
                continue
            seen += 1
            assert (message.field[0].name, message.field[0].number) == ("name", 1), name
            behaviors = message.field[0].options.Extensions[field_behavior_pb2.field_behavior]
            assert field_behavior_pb2.IDENTIFIER in behaviors
            assert message.options.Extensions[options_pb2.resource].rises, name
            stated = message.options.Extensions[resource_pb2.resource]
            assert stated.pattern[0].startswith("regions/{region}/" + stated.plural + "/")
        assert seen >= 3

    def test_has_no_field_that_could_hold_anything(self) -> None:
        anything = {".google.protobuf.Struct", ".google.protobuf.Any", ".google.protobuf.Value"}
        loose = [f"{n}.{f.name}" for n, m in ALL_MESSAGES.items() for f in m.field if f.type_name in anything]
        assert loose == []
        maps = {n.rpartition(".")[0] for n, m in ALL_MESSAGES.items() if m.options.map_entry}
        assert maps == ENVELOPES


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.split(".")[1] in SERVICES])
class TestEvents:
    def test_carry_the_resource_first(self, package: str) -> None:
        found = contract.read(package)
        assert found.events
        for event in found.events.values():
            assert event.resource in found.resources
            assert event.verb

    def test_have_verbs_that_tell_them_apart(self, package: str) -> None:
        found = contract.read(package).events.values()
        subjects = [(event.resource, event.verb) for event in found]
        assert len(subjects) == len(set(subjects))

    def test_are_those_of_the_flows(self, package: str) -> None:
        found = contract.read(package).events
        hosted = service(package.split(".")[1])
        for flow in hosted.lifecycles:
            classes = [action.event.DESCRIPTOR for action in flow.actions.values()]
            assert {c.full_name for c in classes} <= set(found)
            assert len(set(classes)) == len(classes)
            assert flow.policy is None or {flows.ESCALATE, flows.RECOUNT} <= set(flow.actions)
            of = flow.resource.DESCRIPTOR.full_name
            others = {n for n, e in found.items() if e.resource == of and e.verb != "deleted"}
            unused = others - {c.full_name for c in classes}
            assert unused == set()

    def test_have_a_history_that_whoever_sees_the_record_reads(self, package: str) -> None:
        found = contract.read(package).methods
        for flow in service(package.split(".")[1]).lifecycles:
            one = flow.resource.DESCRIPTOR.name
            get, steps = found[f"Get{one}"], found[f"List{one}Steps"]
            public = any(rule.scope == options_pb2.SCOPE_PUBLIC for rule in get.rules)
            assert public or set(steps.rules) == set(get.rules), one
            assert not any(rule.scope == options_pb2.SCOPE_PUBLIC for rule in steps.rules), one
            assert steps.read_only


def refusals(root: type[errors.Refusal]) -> Iterator[type[errors.Refusal]]:
    for cls in root.__subclasses__():
        yield cls
        yield from refusals(cls)


def reason(cls: type[errors.Refusal]) -> str:
    return cls.reason.fget(cls.__new__(cls))  # type: ignore[attr-defined,no-any-return]


def examples(package: str) -> dict[str, str]:
    """Reason → the example in its comment."""
    file = FILES[f"{package.replace('.', '/')}/error_reason.proto"]
    comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    values = file.enum_type[0].value
    return {
        value.name.removeprefix("ERROR_REASON_"): " ".join(
            comments[(5, 0, 2, i)].partition("Example:")[2].split()
        )
        for i, value in enumerate(values)
        if value.number
    }


REASONED = sorted(file.package for name, file in FILES.items() if name.endswith("/error_reason.proto"))


@pytest.mark.parametrize("package", REASONED)
class TestErrorReasons:
    def classes(self, package: str) -> dict[str, type[errors.Refusal]]:
        domain = package.split(".")[1]
        if domain in SERVICES:
            service(domain)
        where = (f"services.{domain}.",) if domain in SERVICES else ("mesh.", "gateway.")
        assert enrolment.HANDLERS  # the node process refuses too, in the plumbing's name
        never_sent = {errors.Refused, errors.Passed}  # one is a base, the other carries another node's status
        found = [c for c in refusals(errors.Refusal) if c.__module__.startswith(where)]
        found = [c for c in found if c not in never_sent]
        return {reason(cls): cls for cls in found}

    def test_are_those_that_the_code_can_give(self, package: str) -> None:
        assert set(self.classes(package)) == set(examples(package))

    def test_have_an_example_that_a_client_could_see(self, package: str) -> None:
        classes = self.classes(package)
        for name, text in examples(package).items():
            example = json.loads(text)
            assert example["reason"] == name
            assert example["domain"] == f"{package.split('.')[1]}.village"
            stated = set(re.findall(r"\{(\w+)\}", classes[name].en + classes[name].zh))
            assert set(example["metadata"]) <= stated | {"field"}

    def test_are_said_in_chinese_too(self, package: str) -> None:
        for cls in self.classes(package).values():
            assert re.search(r"[\u4e00-\u9fff]", cls.zh)
            assert set(re.findall(r"\{(\w+)\}", cls.zh)) <= set(re.findall(r"\{(\w+)\}", cls.en))
