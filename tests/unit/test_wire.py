"""Naming the field at which bytes break."""

import pytest

from mesh import errors, wire
from village.habitat.v1 import report_pb2 as pb

OF = pb.FileReportRequest.DESCRIPTOR


def explained(raw: bytes) -> tuple[str, str]:
    refusal = wire.explain(raw, OF)
    assert isinstance(refusal, errors.Invalid)
    return refusal.metadata["field"], refusal.metadata["why"]


class TestExplain:
    @pytest.mark.parametrize(
        ("raw", "field", "why"),
        [
            (b"\x0a\x02\xff\xfe", "parent", "UTF-8"),
            (b"\x0a\x09abc", "parent", "broken off"),
            (b"\x12\x04\x1a\x02\xff\xfe", "report.description", "UTF-8"),
            (b"\x12\x06\x32\x04\x0a\x02\xff\xfe", "report.contact.person_name", "UTF-8"),
            (b"\x12\x02\x10\xff", "report.category", "broken off"),
            (b"\x12\x03\x1a\x09a", "report.description", "broken off"),
            (b"\xff", "FileReportRequest", "broken off"),
            (b"\x00", "FileReportRequest", "not protobuf"),
            (b"\x0f", "parent", "not protobuf"),
            (b"", "FileReportRequest", "not a valid"),
        ],
    )
    def test_names_the_field_and_says_why(self, raw: bytes, field: str, why: str) -> None:
        found = explained(raw)
        assert found[0] == field
        assert why in found[1]

    def test_ends_on_any_bytes(self) -> None:
        for first in range(256):
            for second in (0, 1, 0x7F, 0x80, 0xFF):
                field, why = explained(bytes([first, second]) * 9)
                assert field
                assert why
