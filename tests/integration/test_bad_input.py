"""Bad input through the whole chain on every method (I6): refused with INVALID_ARGUMENT and the field, never
INTERNAL, UNKNOWN or UNAVAILABLE, and nothing is written; on both databases."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from google.api import field_behavior_pb2
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from mesh import contract, errors, resources, statuses
from tests.contract.test_access import METHODS, requests, write_issuers
from tests.county import REGION, TOWN_UNIT, VILLAGE_UNIT, County, issuer
from tests.loop import PARENT, PHOTO, ask, file, reach, take, written
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1 import report_policy_pb2 as policy_pb

FOUND = contract.read("village.habitat.v1")
KNOWN = {name: FOUND.methods[name] for name in METHODS if FOUND.methods[name].request_fields}
"""Those with a good request about a report or a place; `tests/fuzz` sends every method what nobody would."""
ANSWERS = {
    errors.INVALID_ARGUMENT, errors.NOT_FOUND, errors.ALREADY_EXISTS, errors.PERMISSION_DENIED,
    errors.FAILED_PRECONDITION, errors.ABORTED,
}  # fmt: skip
"""What a caller's mistake may be answered with."""


@pytest.fixture
def county(county: County) -> County:
    """The county, whose issuer vouches for supervisors too."""
    entry = {"issuer": issuer(REGION), "jwks": "jwks.json", "region": REGION, "highest_level": "PROVINCE"}
    write_issuers(county, [entry])
    return county


def send(county: County, method: str, raw: bytes) -> errors.Refusal | None:
    """The refusal, if any, to somebody whom roles do not keep out."""
    if FOUND.methods[method].of_nodes:
        return _sent(county, method, raw, county.as_node())
    allowed = {role for rule in FOUND.methods[method].rules for role in rule.roles}
    roles = [r for r in ("KA", "TO", "VO", "CZ") if not allowed or r in allowed] or sorted(allowed)[:1]
    token = county.token("county", roles=roles, organisation=VILLAGE_UNIT)
    return _sent(county, method, raw, {"authorization": f"Bearer {token}"})


def _sent(county: County, method: str, raw: bytes, headers: dict[str, str]) -> errors.Refusal | None:
    try:
        county.raw(method, raw, headers)
    except errors.Refusal as refusal:
        return refusal
    return None


def fields(refusal: errors.Refusal | None) -> list[str]:
    """The fields that a refusal names; the status says the same."""
    assert isinstance(refusal, errors.Invalid), repr(refusal)
    status = statuses.status(refusal)
    assert status.code == errors.INVALID_ARGUMENT
    assert any("BadRequest" in d.type_url for d in status.details)
    return [field for field, _ in refusal.violations]


def sound(refusal: errors.Refusal | None) -> bool:
    if refusal is None:
        return True
    if isinstance(refusal, errors.Invalid):
        return all(field and why for field, why in refusal.violations)
    return refusal.code in ANSWERS


def varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def part(number: int, inside: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(inside)) + inside


def texts(of: Any, seen: tuple[str, ...] = ()) -> Iterator[list[FieldDescriptor]]:
    """Ways to every string field of a message."""
    for field in of.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield [field]
        elif field.message_type and field.message_type.full_name not in seen:
            for rest in texts(field.message_type, (*seen, of.full_name)):
                yield [field, *rest]


NUMBERS = (
    *(FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_DOUBLE),
    FieldDescriptor.CPPTYPE_BOOL,
)


class TestBytes:
    def test_that_are_random_are_never_a_fault(self, county: County) -> None:
        known = requests(county, reach(county, "ASSIGNED").name)
        for method in KNOWN:
            self.check(county, method, known[method].SerializeToString())

    def check(self, county: County, method: str, good: bytes) -> None:
        @hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
        @hypothesis.given(st.binary(max_size=120), st.integers(0, len(good)), st.integers(0, 3))
        def each(noise: bytes, at: int, kind: int) -> None:
            raw = [noise, good[:at] + noise + good[at:], good[:at] + noise, good + noise][kind]
            refusal = send(county, method, raw)
            assert sound(refusal), (method, raw, refusal, refusal and refusal.__cause__)

        each()

    def test_that_break_off_are_refused_or_mean_something(self, county: County) -> None:
        known, wrong = requests(county, reach(county, "ASSIGNED").name), []
        for method in KNOWN:
            good = known[method].SerializeToString()
            for at in range(len(good) - 1, 0, -7):
                refusal = send(county, method, good[:at])
                if not sound(refusal):
                    wrong.append((method, at, repr(refusal)))
            assert fields(send(county, method, good[:-1] if good[-2:] != b"\x00\x01" else good[:5]))
        assert wrong == []

    def test_that_are_not_utf_8_are_refused_with_their_field(self, county: County) -> None:
        wrong = []
        for method in FOUND.methods.values():
            for way in texts(method.request.DESCRIPTOR):
                raw = b"\xff\xfe\xed\xa0\x80"
                for field in reversed(way):
                    raw = part(field.number, raw)
                named = fields(send(county, method.name, raw))
                if named != [".".join(field.name for field in way)]:
                    wrong.append((method.name, way[-1].full_name, named))
        assert wrong == []


class TestEveryRequest:
    def test_that_is_empty_is_refused_with_every_required_field(self, county: County) -> None:
        for method in FOUND.methods.values():
            if not method.request_fields:
                continue
            before = written(county)
            named = set(fields(send(county, method.name, b"")))
            if method.name == "StreamReadings":  # each message says whose readings it carries
                continue
            if method.streams_in:  # only the first message says where
                assert named == {"parent"}
                continue
            if "update_mask" in method.request_fields:  # the record is looked at when the change is in it
                assert "name" in named
                continue
            for field in method.request.DESCRIPTOR.fields:
                behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
                whole = field.cpp_type in NUMBERS
                if field_behavior_pb2.REQUIRED in behaviors and not whole:  # 0 is a number too
                    inside = {n for n in named if n == field.name or n.startswith(f"{field.name}.")}
                    assert inside, method.name
            assert written(county) == before

    @pytest.mark.parametrize(
        "name",
        [
            "x" * 1000, f"{PARENT}/reports/{'a' * 1000}", f"{PARENT}/reports/", "regions/360423", "",
            f"{PARENT}/reports/../../x", f"{PARENT}/reports/{'A' * 36}", f"{PARENT}/reports/{'０' * 36}",
            f"{PARENT}/reports/{'a' * 36}/x", f"{PARENT}/reports/{'a' * 36}\n",
            f"/{PARENT}/reports/{'a' * 36}",
        ],
    )  # fmt: skip
    def test_refuses_a_name_that_is_none(self, county: County, name: str) -> None:
        known = requests(county, file(county).name)
        for method in KNOWN.values():
            request = known[method.name]
            field = method.parent
            setattr(request, field, name)
            if name == "regions/360423" and field == "parent" and method.name != "ListReportSteps":
                continue
            named = fields(send(county, method.name, request.SerializeToString()))
            assert field in named, method.name

    def test_refuses_an_id_of_a_thousand_bytes_everywhere(self, county: County) -> None:
        known, name = requests(county, file(county).name), "request_id"
        for method in KNOWN.values():
            if name in method.request_fields:
                request = known[method.name]
                request.request_id = "a" * 1000
                assert fields(send(county, method.name, request.SerializeToString())) == [name]
            if "etag" in method.request_fields:
                request = requests(county, file(county).name)[method.name]
                request.etag = "1" * 1000
                assert fields(send(county, method.name, request.SerializeToString())) == ["etag"]


def filing(**report: Any) -> pb.FileReportRequest:
    usual = {"category": 1, "description": "x", "division": "360423100201",
             "location": {"latitude": 29.26, "longitude": 115.1}}  # fmt: skip
    return pb.FileReportRequest(parent=PARENT, report={**usual, **report})


OUT_OF_RANGE = [
    {"seconds": 10**18}, {"seconds": -(10**15)}, {"seconds": 253402300800}, {"seconds": -62135596801},
    {"seconds": 2**63 - 1}, {"seconds": -(2**63)}, {"seconds": 1, "nanos": -1},
    {"seconds": 1, "nanos": 10**9}, {"seconds": 1, "nanos": 2**31 - 1},
]  # fmt: skip


class TestFields:
    @pytest.mark.parametrize(
        ("report", "field"),
        [
            ({"category": 0}, "report.category"),
            ({"category": 99}, "report.category"),
            ({"category": -1}, "report.category"),
            ({"description": ""}, "report.description"),
            ({"description": "字" * 2001}, "report.description"),
            ({"division": ""}, "report.division"),
            ({"division": "360424100201"}, "report.division"),
            ({"division": "360423"}, "report.division"),
            ({"location": {}}, "report.location"),
            ({"location": {"latitude": float("nan"), "longitude": 115.0}}, "report.location"),
            ({"location": {"latitude": float("inf"), "longitude": 115.0}}, "report.location"),
            ({"location": {"latitude": 29.0, "longitude": -115.0}}, "report.location"),
            ({"contact": {"phone": "12345"}}, "report.contact.phone"),
            ({"contact": {"person_name": "字" * 51}}, "report.contact.person_name"),
            ({"photos": [{}]}, "report.photos[0].sha256"),
            ({"photos": [{**PHOTO, "media_type": "x"}]}, "report.photos[0].media_type"),
            ({"photos": [{**PHOTO, "size_bytes": 0}]}, "report.photos[0].size_bytes"),
            ({"photos": [PHOTO] * 10}, "report.photos"),
            ({"observe_time": {"seconds": 4_000_000_000}}, "report.observe_time"),
        ],
    )  # fmt: skip
    def test_of_a_report_are_refused_by_name(self, county: County, report: Any, field: str) -> None:
        before = written(county)
        assert field in fields(send(county, "FileReport", filing(**report).SerializeToString()))
        assert written(county) == before

    def test_with_times_that_are_none_are_refused_by_name(self, county: County) -> None:
        policy = requests(county, file(county).name)["IssueReportPolicy"]
        wrong = []
        for time in OUT_OF_RANGE:
            policy.report_policy.effective_time.Clear()
            policy.report_policy.effective_time.MergeFrom(resources.Timestamp(**time))
            for method, request, field in (
                ("FileReport", filing(observe_time=time), "report.observe_time"),
                ("ComputeReportFigures", figures(cut_off_time=time), "cut_off_time"),
                ("ComputeReportFigures", figures(start_time=time), "start_time"),
                ("IssueReportPolicy", policy, "report_policy.effective_time"),
            ):
                refusal = send(county, method, request.SerializeToString())
                named = [f for f, _ in getattr(refusal, "violations", [])]
                if not any(f.startswith(field) for f in named):
                    wrong.append((method, field, time, repr(refusal)))
        assert wrong == []

    def test_with_times_long_ago_are_kept_and_read_again(self, county: County) -> None:
        for seconds in (-62135596800, -40000000000, -30610224000, 0):
            report = file(county, observe_time={"seconds": seconds})
            read = county.call("resident", pb.GetReportRequest(name=report.name))
            assert read.observe_time.seconds == seconds
        assert len(county.call("county", pb.ListReportsRequest(parent=PARENT)).reports) == 4

    def test_with_numbers_of_no_enum_are_refused_by_name(self, county: County) -> None:
        name = reach(county, "ACCEPTED").name
        for number in (99, -1, 2**31 - 1):
            assign = ask("assign", name, level=number)
            assert fields(send(county, "AssignReport", assign.SerializeToString())) == ["level"]
            verify = pb.VerifyReportRequest(name=name, result=number)
            assert fields(send(county, "VerifyReport", verify.SerializeToString())) == ["result"]
            asked = figures(category=number)
            assert fields(send(county, "ComputeReportFigures", asked.SerializeToString())) == ["category"]

    def test_of_evidence_are_refused_by_name(self, county: County) -> None:
        name = reach(county, "IN_PROGRESS").name
        none = pb.RectifyReportRequest(name=name)
        assert fields(send(county, "RectifyReport", none.SerializeToString())) == ["evidence"]

    def test_with_a_nul_are_kept_or_refused_but_never_a_fault(self, county: County) -> None:
        """PostgreSQL keeps no NUL in text."""
        wrong = []
        for method in KNOWN.values():
            for way in texts(method.request.DESCRIPTOR):
                request = requests(county, reach(county, "ACCEPTED").name)[method.name]
                at = request
                for field in way[:-1]:
                    at = getattr(at, field.name)
                    at = at.add() if field.is_repeated else at
                if way[-1].is_repeated:
                    getattr(at, way[-1].name).append("a\x00b")
                else:
                    setattr(at, way[-1].name, "a\x00b")
                refusal = send(county, method.name, request.SerializeToString())
                if not sound(refusal):
                    wrong.append((method.name, way[-1].full_name, repr(refusal)))
        take(county, "assign", reach(county, "ACCEPTED").name, unit=TOWN_UNIT, level=2)
        assert wrong == []

    def test_of_a_policy_are_refused_by_name(self, county: County) -> None:
        request: policy_pb.IssueReportPolicyRequest
        for field, value in (("accept_working_days", 0), ("accept_working_days", 31), ("basis", "")):
            request = requests(county, file(county).name)["IssueReportPolicy"]
            setattr(request.report_policy, field, value)
            raw = request.SerializeToString()
            assert fields(send(county, "IssueReportPolicy", raw)) == [f"report_policy.{field}"]
        request = requests(county, file(county).name)["IssueReportPolicy"]
        request.report_policy.rectify_limits[2].level = 1
        named = fields(send(county, "IssueReportPolicy", request.SerializeToString()))
        assert named == ["report_policy.rectify_limits"]
        request.report_policy_id = "X_Y"
        assert "report_policy_id" in fields(send(county, "IssueReportPolicy", request.SerializeToString()))


def figures(**more: Any) -> pb.ComputeReportFiguresRequest:
    return pb.ComputeReportFiguresRequest(parent=PARENT, **more)
