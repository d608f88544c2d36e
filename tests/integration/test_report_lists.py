"""The ledger of reports (台账): what each may see, filters, orders and pages, on both databases."""

import base64
import datetime
import json
import re
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import errors, lists, resources
from tests.county import REGION, TOWN, TOWN_UNIT, VILLAGE, VILLAGE_UNIT, County
from tests.loop import PARENT, execute, file, reach, rows, take
from village.habitat.v1 import report_pb2 as pb
from village.habitat.v1 import report_policy_pb2 as policy_pb

ELSEWHERE = "360423101200"
"""A village of another township of the county."""


def ask(**fields: Any) -> pb.ListReportsRequest:
    return pb.ListReportsRequest(**{"parent": PARENT, **fields})


def names(county: County, who: str = "county", **fields: Any) -> list[str]:
    return [r.name for r in county.call(who, ask(**fields)).reports]


def every(county: County, who: str = "county", **fields: Any) -> list[list[str]]:
    """All pages."""
    pages, token = [], ""
    while True:
        answer = county.call(who, ask(page_token=token, **fields))
        pages.append([r.name for r in answer.reports])
        token = answer.next_page_token
        if not token:
            return pages
        assert len(pages) < 50


def refused(county: County, who: str = "county", **fields: Any) -> errors.Invalid:
    with pytest.raises(errors.Invalid) as caught:
        county.call(who, ask(**fields))
    return caught.value


def many(county: County, count: int) -> list[str]:
    """Names of reports, oldest first, put straight into the table: every third without a due time, the
    others with few different ones."""
    first = file(county).name
    names_ = [
        f"{PARENT}/reports/{resources.uuid7(county.now + datetime.timedelta(seconds=i))}"
        for i in range(1, count)
    ]
    columns = [c.name for c in county.store.codec(pb.Report).table.columns]
    # a description opens only under the name it was written for
    chosen = {"name": ":name", "due_time": ":due", "description": "''", "reporter": "''"}
    values = [
        {
            "first": first,
            "name": name,
            "due": None if i % 3 == 0 else county.store.instant(county.now + datetime.timedelta(days=i % 7)),
        }
        for i, name in enumerate(names_)
    ]
    if not county.store.sqlite:
        chosen["due_time"] = "CAST(:due AS timestamptz)"
    copy = f"INSERT INTO reports ({', '.join(columns)}) SELECT " + ", ".join(
        chosen.get(c, c) for c in columns
    )
    with county.store.database.engine.connect() as connection:
        connection.execute(sa.text("BEGIN"))
        connection.execute(sa.text(f"{copy} FROM reports WHERE name = :first"), values)
        connection.execute(sa.text("COMMIT"))
    return [first, *names_]


def joined(pages: list[list[str]]) -> list[str]:
    return [name for page in pages for name in page]


class TestWhoSeesWhat:
    @pytest.fixture
    def filed(self, county: County) -> dict[str, str]:
        found = {"here": file(county).name}
        county.pass_time(seconds=1)
        found["neighbour's"] = file(county, "neighbour").name
        county.pass_time(seconds=1)
        found["elsewhere"] = file(county, division=ELSEWHERE).name
        return found

    def test_a_county_sees_all_of_its_own(self, county: County, filed: dict[str, str]) -> None:
        for who in ("county", "inspector", "auditor"):
            assert names(county, who) == list(filed.values())

    def test_a_township_and_a_village_see_their_own_division(
        self, county: County, filed: dict[str, str]
    ) -> None:
        for who in ("town", "village"):
            assert names(county, who) == [filed["here"], filed["neighbour's"]]
        assert names(county, "other_town") == [filed["elsewhere"]]
        assert names(county, "other_town", filter=f'division:"{TOWN}"') == []

    def test_a_resident_sees_what_he_filed(self, county: County, filed: dict[str, str]) -> None:
        assert names(county, "resident") == [filed["here"], filed["elsewhere"]]
        assert names(county, "neighbour") == [filed["neighbour's"]]
        assert names(county, "neighbour", filter="NOT state = CLOSED OR state = REPORTED") == [
            filed["neighbour's"]
        ]

    def test_a_region_without_reports_is_empty_and_one_outside_is_forbidden(self, county: County) -> None:
        file(county)
        for parent in ("regions/360424", "regions/360400", "regions/360000", "regions/110000"):
            with pytest.raises(errors.Forbidden):
                county.call("county", ask(parent=parent))

    def test_history_of_a_record_is_for_those_who_may_see_the_record(
        self, county: County, filed: dict[str, str]
    ) -> None:
        for who, name in (("other_town", "here"), ("resident", "neighbour's"), ("village", "elsewhere")):
            with pytest.raises(errors.Forbidden):
                county.call(who, pb.ListReportStepsRequest(parent=filed[name]))
            with pytest.raises(errors.Forbidden):
                county.call(who, pb.GetReportRequest(name=filed[name]))


STATED = [
    ("", "waste sewage assigned town's told"),
    ("   ", "waste sewage assigned town's told"),
    ("category = SEWAGE", "sewage"),
    ("category = CATEGORY_SEWAGE", "sewage"),
    ("category != SEWAGE state = REPORTED", "waste"),
    ("state = REPORTED", "waste sewage"),
    ('state = "REPORTED"', "waste sewage"),
    ("NOT state = REPORTED", "assigned town's told"),
    ("-state = REPORTED", "assigned town's told"),
    ("state = REPORTED AND category = WASTE", "waste"),
    ("state = ASSIGNED OR category = SEWAGE", "sewage assigned town's"),
    ("overdue = true AND state = ASSIGNED OR category = SEWAGE", "assigned"),
    ("(overdue = true AND state = ASSIGNED) OR category = SEWAGE", "sewage assigned"),
    ("overdue = true", "assigned"),
    (f'division:"{TOWN}"', "waste assigned town's told"),
    (f'division:"{REGION}"', "waste sewage assigned town's told"),
    ('division:"360000"', "waste sewage assigned town's told"),
    ('division:"360424"', ""),
    (f"division = {ELSEWHERE}", "sewage"),
    (f'state = ASSIGNED AND overdue = true AND division:"{TOWN}"', "assigned"),
    (f"handling_unit = {TOWN_UNIT}", "town's"),
    (f"handling_unit = '{VILLAGE_UNIT}'", "assigned told"),
    ("handling_level = LEVEL_TOWNSHIP", "town's"),
    ("handling_level = TOWNSHIP", "town's"),
    ("due_time:*", "waste sewage assigned town's told"),
    ("handling_level:*", "assigned town's told"),
    ("handling_unit:*", "assigned town's told"),
    ('due_time <= "2026-03-04T00:00:00Z"', "waste sewage"),
    ('due_time > "2026-03-04T00:00:00+08:00"', "assigned town's told"),
    ('file_time < "2026-03-02T02:00:00Z"', ""),
    ('handling_unit = "\' OR 1=1 --"', ""),
]
"""Filter → which of the reports below it gives. OR binds tighter than AND (AIP-160)."""

UNREADABLE = [
    ("state = ", 7),
    ("state ASSIGNED", 1),
    ("state = REPORTED AND", 18),
    ("state = REPORTED) OR (x = 1", 17),
    ("colour = RED", 1),
    ("state = REPORTED AND description = x", 22),
    ("state = FINISHED", 9),
    ("overdue = perhaps", 11),
    ("due_time = yesterday", 12),
    ("due_time = 2026-03-01", 12),
    ('due_time > "2026-03-01T00:00:00"', 12),
    ('division:"36"', 10),
    ("state > REPORTED", 7),
    ('state = "REPORTED', 9),
]
"""Filter → the character that its refusal names."""

AWKWARD = [
    "overdue:*",
    'handling_unit = "a\x00b"',
    "NOT (overdue = true " * 60 + "overdue = true" + ")" * 60,
    "NOT (overdue=true " * 100 + "overdue=true" + ")" * 100,
    "(" * 900 + "overdue=true" + ")" * 900,
    "state=REPORTED " * 130,
    " OR ".join(["state=REPORTED"] * 100),
    'file_time > "0001-01-01T00:00:00+23:59"',
    'file_time < "9999-12-31T23:59:59-23:59"',
]


class TestFilter:
    @pytest.fixture
    def kinds(self, county: County) -> dict[str, str]:
        found = {
            "waste": file(county).name,
            "sewage": file(county, category=pb.Report.CATEGORY_SEWAGE, division=ELSEWHERE).name,
            "assigned": reach(county, "ASSIGNED").name,
            "town's": reach(county, "ACCEPTED").name,
            "told": reach(county, "FEEDBACK_SENT").name,
        }
        take(county, "assign", found["town's"], level=2, unit=TOWN_UNIT)
        execute(county, "UPDATE reports SET overdue = true WHERE name = :n", n=found["assigned"])
        return found

    def test_gives_what_it_states(self, county: County, kinds: dict[str, str]) -> None:
        found = {text: names(county, filter=text) for text, _ in STATED}
        shown = {text: " ".join(k for k, name in kinds.items() if name in found[text]) for text in found}
        assert shown == dict(STATED)

    def test_names_the_character_where_it_cannot_be_read(self, county: County) -> None:
        refusals = {text: refused(county, filter=text) for text, _ in UNREADABLE}
        assert {r.metadata["field"] for r in refusals.values()} == {"filter"}
        places = {t: re.search(r"character (\d+)", r.metadata["why"]) for t, r in refusals.items()}
        assert {t: int(m[1]) for t, m in places.items() if m} == dict(UNREADABLE)

    def test_is_read_or_refused_but_never_a_fault(self, county: County) -> None:
        file(county)
        assert [t[:40] for t in AWKWARD if not self.read_or_refused(county, t)] == []

    def read_or_refused(self, county: County, text: str) -> bool:
        try:
            county.call("county", ask(filter=text))
        except errors.Refusal as refusal:
            return isinstance(refusal, errors.Invalid) and refusal.metadata["field"] == "filter"
        return True

    def test_refuses_more_than_two_thousand_characters(self, county: County) -> None:
        assert refused(county, filter="x" * 2001).metadata["field"] == "filter"


class TestPages:
    def test_give_each_report_once_in_a_stable_order(self, county: County) -> None:
        filed = many(county, 120)
        pages = every(county, page_size=50)
        assert [len(p) for p in pages] == [50, 50, 20]
        assert joined(pages) == filed

    @pytest.mark.parametrize("order", ["due_time desc", "due_time", "state, due_time desc", "division desc"])
    def test_give_each_once_in_any_order_with_absent_ones_last(self, county: County, order: str) -> None:
        filed = many(county, 120)
        pages = every(county, page_size=50, order_by=order)
        assert [len(p) for p in pages] == [50, 50, 20]
        found = joined(pages)
        assert sorted(found) == sorted(filed)
        if "due_time" in order:
            due = {n: d and str(d) for n, d in rows(county, "SELECT name, due_time FROM reports")}
            values = [due[name] for name in found]
            present = [v for v in values if v is not None]
            assert values[: len(present)] == present
            assert present == sorted(present, reverse="desc" in order)
            assert len(present) < len(values)
        again = joined(every(county, page_size=7, order_by=order))
        assert again == found

    def test_do_not_repeat_or_lose_one_when_more_are_filed_meanwhile(self, county: County) -> None:
        filed = many(county, 20)
        first = county.call("county", ask(page_size=10))
        county.pass_time(hours=1)
        late = file(county).name
        rest = county.call("county", ask(page_size=50, page_token=first.next_page_token))
        assert [r.name for r in (*first.reports, *rest.reports)] == [*filed, late]

    def test_are_of_the_stated_default_and_maximum(self, county: County) -> None:
        many(county, 60)
        assert len(names(county)) == lists.DEFAULT_SIZE == 50
        assert len(names(county, page_size=10_000)) == 60
        assert lists.MAXIMUM_SIZE == 500
        assert len(names(county, page_size=2**31 - 1)) == 60

    def test_stop_at_the_maximum(self, county: County, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lists, "MAXIMUM_SIZE", 5)
        many(county, 7)
        assert len(names(county, page_size=10_000)) == 5

    def test_end_without_a_token_when_the_last_page_is_full(self, county: County) -> None:
        many(county, 10)
        assert [len(p) for p in every(county, page_size=5)] == [5, 5]

    def test_refuse_a_negative_size(self, county: County) -> None:
        assert refused(county, page_size=-1).metadata["field"] == "page_size"

    def test_refuse_an_order_that_cannot_be(self, county: County) -> None:
        for text in ("description", "due_time sideways", "due_time desc desc", "name; DROP TABLE reports"):
            assert refused(county, order_by=text).metadata["field"] == "order_by"

    def test_keep_what_the_caller_may_see(self, county: County) -> None:
        many(county, 20)
        county.pass_time(hours=1)
        own = file(county, "neighbour").name
        token = county.call("county", ask(page_size=5)).next_page_token
        assert names(county, "neighbour", page_token=token) == [own]


class TestPageToken:
    def test_belongs_to_its_query(self, county: County) -> None:
        many(county, 20)
        token = county.call("county", ask(page_size=5)).next_page_token
        others = (
            {"filter": "state = REPORTED"},
            {"order_by": "due_time"},
            {"filter": " "},
        )
        for other in others:
            refusal = refused(county, page_token=token, **other)
            assert refusal.metadata["field"] == "page_token"
        name = file(county).name
        with pytest.raises(errors.Invalid) as caught:
            county.call("county", pb.ListReportStepsRequest(parent=name, page_token=token))
        assert caught.value.metadata["field"] == "page_token"

    def test_may_change_its_page_size(self, county: County) -> None:
        filed = many(county, 20)
        token = county.call("county", ask(page_size=5)).next_page_token
        assert names(county, page_size=3, page_token=token) == filed[5:8]

    def test_refuses_what_is_not_one(self, county: County) -> None:
        for text in ("x", "é", "W10", "bnVsbA", "e30", "5", "=" * 8, "A" * 2000, "W1tbW1tb"):
            assert refused(county, page_token=text).metadata["field"] == "page_token"

    @pytest.mark.parametrize("order", ["", "due_time desc"])
    def test_refuses_forged_values_as_it_refuses_any_other(self, county: County, order: str) -> None:
        """A genuine token with other values in it."""
        many(county, 3)
        accepted = []
        for value in (5, 10**30, -1, 1.5, True, None, [1], {}, {"t": 5}, {"t": "x"}, "a\x00b"):
            request = ask(order_by=order)
            request.page_token = _forge(county, request, [value] * (3 if order else 1))
            if not _refused_for_its_token(county, request):
                accepted.append(value)
        assert accepted == []

    def test_refuses_forged_numbers_of_a_history(self, county: County) -> None:
        name, accepted = file(county).name, []
        county.call("county", pb.AcceptReportRequest(name=name))
        for value in (10**30, 2**31, -1, True, 1.5, "x", None):
            request = pb.ListReportStepsRequest(parent=name)
            request.page_token = _forge(county, request, [value])
            if not _refused_for_its_token(county, request):
                accepted.append(value)
        assert accepted == []


def _refused_for_its_token(county: County, request: Any) -> bool:
    try:
        county.call("county", request)
    except errors.Refusal as refusal:
        return isinstance(refusal, errors.Invalid) and refusal.metadata["field"] == "page_token"
    return False


def _forge(county: County, request: Any, values: list[Any]) -> str:
    asked = type(request)()
    asked.CopyFrom(request)
    asked.page_token, asked.page_size = "", 1
    genuine = county.call("county", asked).next_page_token
    proof, *_ = json.loads(base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4)))
    return base64.urlsafe_b64encode(json.dumps([proof, *values]).encode()).decode().rstrip("=")


class TestPolicies:
    def test_are_listed_by_the_time_they_take_effect(self, county: County) -> None:
        default = county.call(
            "county", policy_pb.GetReportPolicyRequest(name=f"{PARENT}/reportPolicies/default")
        )
        later = policy_pb.ReportPolicy()
        later.CopyFrom(default)
        later.effective_time.FromDatetime(county.now + datetime.timedelta(days=1))
        request = policy_pb.IssueReportPolicyRequest(
            parent=PARENT, report_policy=later, report_policy_id="2026-2"
        )
        county.call("county", request)
        asked = policy_pb.ListReportPoliciesRequest(parent=PARENT, order_by="effective_time desc")
        found = county.call("resident", asked).report_policies
        assert [p.name.rpartition("/")[2] for p in found] == ["2026-2", "default"]
        assert file(county).policy.endswith("/default")
        county.pass_time(days=1)
        assert file(county).policy.endswith("/2026-2")
        county.pass_time(days=-1)
        with pytest.raises(errors.AlreadyExists):
            county.call("county", request)


class TestSubtree:
    def test_of_a_region_is_a_range_of_codes(self, county: County) -> None:
        """A row of a sibling county, as the province keeps it, is seen by nobody of this county."""
        name = file(county).name
        execute(
            county,
            "UPDATE reports SET region = '360424', division = '360424100201' WHERE name = :n",
            n=name,
        )
        assert names(county) == []
        assert names(county, "village", filter=f'division:"{VILLAGE}"') == []
