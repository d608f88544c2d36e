"""Contracts that break one rule each, as a server reflects them: found by that rule alone, without a call."""

import concurrent.futures
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection

from conform import notes, run, target
from tests.conform import broken
from tests.county import REGION
from village.options.v1 import options_pb2

File = descriptor_pb2.FileDescriptorProto
Field = descriptor_pb2.FieldDescriptorProto
OUTPUT_ONLY = field_behavior_pb2.OUTPUT_ONLY


@pytest.fixture(scope="module")
def reflected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that only describes itself; its address."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    reflection.enable_server_reflection((broken.SHOWN,), server)
    address = f"unix:{tmp_path_factory.mktemp('contracts')}/s"
    assert server.add_insecure_port(address)
    server.start()
    yield address
    server.stop(0).wait()


def message(file: File, name: str) -> Any:
    return next(m for m in file.message_type if m.name == name)


def field(file: File, of: str, name: str) -> Any:
    return next(f for f in message(file, of).field if f.name == name)


def method(file: File, name: str) -> Any:
    return next(m for s in file.service for m in s.method if m.name == name)


def drop(file: File, of: str, name: str) -> None:
    found = message(file, of)
    kept = [f for f in found.field if f.name != name]
    del found.field[:]
    found.field.extend(kept)


def http(file: File, name: str) -> Any:
    return method(file, name).options.Extensions[annotations_pb2.http]


def resource(file: File) -> Any:
    return message(file, "Report").options.Extensions[resource_pb2.resource]


def no_access(file: File) -> None:
    method(file, "GetReport").options.ClearExtension(options_pb2.access)


def access_of_sys(file: File) -> None:
    allowed = method(file, "GetReport").options.Extensions[options_pb2.access]
    allowed.allow.add(roles=[options_pb2.ROLE_SYS], scope=options_pb2.SCOPE_SUBTREE)


def access_without_roles(file: File) -> None:
    del method(file, "GetReport").options.Extensions[options_pb2.access].allow[0].roles[:]


def url_elsewhere(file: File) -> None:
    http(file, "AcceptReport").post = "/api/v1/{name=regions/*/reports/*}:accept"


def url_of_no_field(file: File) -> None:
    http(file, "AcceptReport").post = "/habitat/v1/{report=regions/*/reports/*}:accept"


def posts_a_read(file: File) -> None:
    url = http(file, "ComputeReportFigures").get
    http(file, "ComputeReportFigures").post = url


def get_that_changes(file: File) -> None:
    method(file, "GetReport").options.ClearField("idempotency_level")
    http(file, "GetReport").post = "/habitat/v1/{name=regions/*/reports/*}"
    message(file, "GetReportRequest").field.extend(
        f for f in message(file, "AcceptReportRequest").field if f.name in ("etag", "request_id")
    )


def no_page_token(file: File) -> None:
    drop(file, "ListReportsRequest", "page_token")


def no_next_page_token(file: File) -> None:
    drop(file, "ListReportsResponse", "next_page_token")


def no_request_id(file: File) -> None:
    drop(file, "FileReportRequest", "request_id")


def no_etag(file: File) -> None:
    drop(file, "AcceptReportRequest", "etag")


def etag_of_the_caller(file: File) -> None:
    field(file, "Report", "etag").options.ClearExtension(field_behavior_pb2.field_behavior)


def silent_field(file: File) -> None:
    field(file, "FileReportRequest", "request_id").options.ClearExtension(field_behavior_pb2.field_behavior)


def state_of_the_caller(file: File) -> None:
    behaviors = field(file, "Report", "state").options.Extensions[field_behavior_pb2.field_behavior]
    del behaviors[:]


def loose(file: File) -> None:
    field(file, "Report", "feedback").MergeFrom(
        Field(type=Field.TYPE_MESSAGE, type_name=".google.protobuf.Any")
    )
    file.dependency.append("google/protobuf/any.proto")


def other_type(file: File) -> None:
    resource(file).type = "reports.example/Report"


def flat_pattern(file: File) -> None:
    resource(file).pattern[0] = "reports/{report}"


def name_is_not_first(file: File) -> None:
    field(file, "Report", "name").number = 99


def silent_about_rising(file: File) -> None:
    message(file, "Report").options.ClearExtension(options_pb2.resource)


def event_without_a_verb(file: File) -> None:
    message(file, "ReportFiled").options.Extensions[options_pb2.event].verb = ""


def two_of_a_verb(file: File) -> None:
    message(file, "ReportAccepted").options.Extensions[options_pb2.event].verb = "filed"


def event_of_no_resource(file: File) -> None:
    first = field(file, "ReportFiled", "report")
    first.ClearField("type_name")
    first.type = Field.TYPE_STRING


def reason_by_another_name(file: File) -> None:
    file.enum_type[0].value[1].name = "RAN_OUT_OF_PAPER"


def one_comment_only(file: File) -> None:
    file.source_code_info.location.add(path=[4, 0], leading_comments=" Describes a report.")


def other_folder(file: File) -> None:
    file.dependency.append("report/limits.proto")


AREA, EVENTS, REASONS = (f"village/habitat/v1/{name}.proto" for name in ("report", "events", "error_reason"))
FAULTS: dict[str, tuple[str, str, Callable[[File], None]]] = {
    "a method without access": ("access", AREA, no_access),
    "a method for the mesh itself": ("access", AREA, access_of_sys),
    "a way without roles": ("access", AREA, access_without_roles),
    "a URL that begins elsewhere": ("url", AREA, url_elsewhere),
    "a URL with a field that is none": ("url", AREA, url_of_no_field),
    "a read that is posted": ("url", AREA, posts_a_read),
    "a Get that may change something": ("reads", AREA, get_that_changes),
    "a List without page_token": ("pages", AREA, no_page_token),
    "a List that gives no next_page_token": ("pages", AREA, no_next_page_token),
    "a method that cannot be repeated": ("request-id-field", AREA, no_request_id),
    "a verb without etag": ("etag-field", AREA, no_etag),
    "an etag that a caller sets": ("etag-field", AREA, etag_of_the_caller),
    "a field that does not say how it behaves": ("behavior", AREA, silent_field),
    "a state that a caller sets": ("state", AREA, state_of_the_caller),
    "a resource that holds anything": ("loose-fields", AREA, loose),
    "a resource with another's type": ("package", AREA, other_type),
    "a resource without a region in its name": ("resource", AREA, flat_pattern),
    "a name that is not the first field": ("resource", AREA, name_is_not_first),
    "a resource that does not say what may rise": ("rises", AREA, silent_about_rising),
    "an event without a verb": ("events", EVENTS, event_without_a_verb),
    "two events of one verb": ("events", EVENTS, two_of_a_verb),
    "an event of no resource": ("events", EVENTS, event_of_no_resource),
    "a reason that is named otherwise": ("reasons", REASONS, reason_by_another_name),
    "elements without comments": ("comments", AREA, one_comment_only),
    "a file that reflection does not give": ("reflection", AREA, other_folder),
}


def looked_at(reflected: str, folder: pathlib.Path, name: str = "", redeclare: Any = None) -> notes.Notes:
    def altered(file: File) -> None:
        if file.name == name:
            redeclare(file)

    server = broken.Broken(folder, reflected, redeclare=altered)
    try:
        return run.run(run.Plan(target=target.Target(server.address), region=REGION))
    finally:
        server.close()


def test_a_good_contract_passes(reflected: str, tmp_path: pathlib.Path) -> None:
    found = looked_at(reflected, tmp_path)
    assert found.of(notes.FAILED) == []
    passed = {note.rule.name for note in found.of(notes.PASSED)}
    assert {rule for rule, _, _ in FAULTS.values()} - passed == {"comments"}


@pytest.mark.parametrize("what", FAULTS)
def test_is_found_by_its_rule_alone(reflected: str, tmp_path: pathlib.Path, what: str) -> None:
    rule, name, redeclare = FAULTS[what]
    failed = looked_at(reflected, tmp_path, name, redeclare).of(notes.FAILED)
    assert {note.rule.name for note in failed} == {rule}, "\n".join(map(str, failed))
