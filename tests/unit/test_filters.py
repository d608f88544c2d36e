"""Reading `filter` and `order_by`, without a database."""

from unittest import mock

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from mesh import contract, errors, filters, keys, resources
from village.habitat.v1.report_pb2 import Report

RESOURCE = contract.resource(Report)
CODEC = resources.Codec(
    RESOURCE,
    resources.table(RESOURCE, sa.MetaData()),
    mock.create_autospec(keys.Rings),
    domain="habitat",
    sqlite=True,
)
PIECES = [
    "state", "=", "!=", "<", ">=", ":", "ASSIGNED", "overdue", "true", "(", ")", "AND", "OR", "NOT", "-", "*",
    '"', "'", "\\", "division", '"360423"', "due_time", '"2026-03-01T00:00:00Z"', "category", "9" * 30,
    "\x00", "字", "handling_unit", " ", ".", "null", "state:*",
]  # fmt: skip


def sql(text: str) -> str:
    found = filters.condition(text, CODEC, "360423")
    return str(found.compile(compile_kwargs={"literal_binds": True})).replace("reports.", "")


class TestCondition:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("state = ASSIGNED", "state = 'ASSIGNED'"),
            ("state:ASSIGNED", "state = 'ASSIGNED'"),
            ('division:"360423100"', "township = '360423100'"),
            ('division:"360000"', "region >= '360000' AND region <= '369999'"),
            ("division = 360423100201", "division = '360423100201'"),
            ("due_time:*", "due_time IS NOT NULL"),
            ('due_time < "2026-03-01T08:00:00+08:00"', "due_time < '2026-03-01T00:00:00.000000Z'"),
            ("handling_unit = \"a'b\"", "handling_unit = 'a''b'"),
            (r"handling_unit = 'it\'s'", "handling_unit = 'it''s'"),
            ("state = ASSIGNED AND state = CLOSED OR state = REPORTED",
             "state = 'ASSIGNED' AND (state = 'CLOSED' OR state = 'REPORTED')"),
        ],
    )  # fmt: skip
    def test_is_the_sql_that_it_means(self, text: str, expected: str) -> None:
        assert sql(text) == expected

    def test_of_nothing_is_none(self) -> None:
        assert filters.condition("", CODEC, "360423") is filters.condition(" \n\t", CODEC, "360423") is None

    @pytest.mark.parametrize(
        "field", ["description", "name", "contact", "handler", "version", "owner", "region"]
    )
    def test_refuses_fields_that_are_not_filterable(self, field: str) -> None:
        with pytest.raises(errors.Invalid, match="cannot be used"):
            filters.condition(f"{field} = x", CODEC, "360423")

    @hypothesis.settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.lists(st.sampled_from(PIECES), max_size=30), st.booleans())
    def test_is_read_or_refused_whatever_the_text(self, pieces: list[str], spaced: bool) -> None:
        text = (" " if spaced else "").join(pieces)
        try:
            found = filters.condition(text, CODEC, "360423")
        except errors.Invalid as refusal:
            assert refusal.metadata["field"] == "filter"  # noqa: PT017 - either answer is right
        else:
            assert found is None or str(found.compile())


class TestOrder:
    def test_is_a_list_of_fields_each_with_its_way(self) -> None:
        found = filters.order("due_time desc, state asc ,, category", RESOURCE)
        assert [(o.field.name, o.descending) for o in found] == [
            ("due_time", True), ("state", False), ("category", False),
        ]  # fmt: skip
        assert filters.order("", RESOURCE) == []

    @pytest.mark.parametrize(
        "text", ["due_time down", "description", "due_time desc asc", "a;b", "字", "desc"]
    )
    def test_refuses_anything_else(self, text: str) -> None:
        with pytest.raises(errors.Invalid) as caught:
            filters.order(text, RESOURCE)
        assert caught.value.metadata["field"] == "order_by"
