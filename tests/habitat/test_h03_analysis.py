"""H-3 预警数据分析研判与工作手册: a province sums warnings up and says what they mean; it issues manuals that
everybody may read, one version at a time."""

from collections.abc import Callable
from typing import Any

import pytest

from cli import sample
from mesh import errors
from tests.contract.test_access import write_issuers
from tests.county import PHOTO, REGION, County, issuer
from tests.habitat.people import refusal, verbs_of
from village.habitat.v1 import analysis_pb2 as pb

A, M = pb.AnalysisPeriod, pb.Manual
PROVINCE = "regions/360000"
WRITER = {"sub": "supervisor-1", "roles": ["PA"], "organisation": None}
CHIEF = {**WRITER, "sub": "supervisor-2"}


@pytest.fixture
def province(opened: Callable[[str], County]) -> County:
    """The province's own node."""
    found = opened("360000")
    entry = {"jwks": "jwks.json", "highest_level": "PROVINCE"}
    known = [{"issuer": issuer(region), "region": region, **entry} for region in ("360000", REGION)]
    write_issuers(found, known)
    return found


def count(**fields: Any) -> dict[str, Any]:
    usual = {"warning": A.WARNING_BIN_OVERFLOW, "about_region": REGION, "count": 5, "confirmed_count": 4}
    return {**usual, **fields}


def draft(province: County, **fields: Any) -> str:
    wanted = {
        "title": "一季度研判", "start_date": {"year": 2026, "month": 1, "day": 1},
        "end_date": {"year": 2026, "month": 3, "day": 31}, "warnings": [count()],
        "conclusion": "满溢集中在集镇", **fields,
    }  # fmt: skip
    asked = pb.DraftAnalysisPeriodRequest(parent=PROVINCE, analysis_period=wanted)
    return str(province.call("county", asked, **WRITER).name)


def issued(province: County, **fields: Any) -> str:
    name = draft(province, **fields)
    province.call("county", pb.ReviewAnalysisPeriodRequest(name=name), **CHIEF)
    province.call("county", pb.IssueAnalysisPeriodRequest(name=name), **CHIEF)
    return name


def manual(province: County, edition: int, *, until: str = "issued") -> str:
    wanted = {
        "code": "toilet-upkeep", "edition": edition, "kind": M.KIND_MANUAL, "title": "农村公厕管护手册",
        "document": PHOTO,
    }  # fmt: skip
    asked = pb.DraftManualRequest(parent=PROVINCE, manual=wanted)
    name = str(province.call("county", asked, **WRITER).name)
    if until in ("reviewed", "issued"):
        province.call("county", pb.ReviewManualRequest(name=name), **CHIEF)
    if until == "issued":
        province.call("county", pb.IssueManualRequest(name=name), **CHIEF)
    return name


def as_public(province: County, request: Any) -> Any:
    """The answer to somebody without a token."""
    method = next(m for m in province.contract.methods.values() if m.request is type(request))
    return method.response.FromString(province.raw(method.name, request.SerializeToString(), {}))


class TestAnalyses:
    def test_a_later_one_supersedes_it_in_the_same_commit(self, province: County) -> None:
        first = issued(province)
        second = issued(province, supersedes=first)
        old = province.call("county", pb.GetAnalysisPeriodRequest(name=first), **WRITER)
        assert (old.state, old.superseded_by) == (A.STATE_SUPERSEDED, second)
        assert verbs_of(province, first) == ["drafted", "reviewed", "issued", "superseded"]
        third = draft(province, supersedes=first)
        province.call("county", pb.ReviewAnalysisPeriodRequest(name=third), **CHIEF)
        again = pb.IssueAnalysisPeriodRequest(name=third)
        assert refusal(province, "county", again, **CHIEF) == "ACTION_NOT_ALLOWED"
        assert province.call("county", pb.GetAnalysisPeriodRequest(name=third), **CHIEF).state == (
            A.STATE_REVIEWED
        )

    def test_sums_its_warnings_up(self, province: County) -> None:
        name = draft(province, warnings=[count(), count(about_region="360424", confirmed_count=0)])
        found = province.call("county", pb.GetAnalysisPeriodRequest(name=name), **WRITER)
        assert (found.warning_count, found.confirmed_count) == (10, 4)

    @pytest.mark.parametrize(
        ("warnings", "why"),
        [
            ([count(), count()], "counted twice"),
            ([count(about_region="350100")], "inside the region"),
            ([count(confirmed_count=6)], "more than there were"),
        ],
    )
    def test_counts_each_type_of_a_region_once(
        self, province: County, warnings: list[dict[str, Any]], why: str
    ) -> None:
        with pytest.raises(errors.Invalid, match=why):
            draft(province, warnings=warnings)

    def test_its_writer_does_not_review_it(self, province: County) -> None:
        asked = pb.ReviewAnalysisPeriodRequest(name=draft(province))
        assert refusal(province, "county", asked, **WRITER) == "FORBIDDEN"
        assert refusal(province, "county", asked, **CHIEF) == "OK"

    def test_findings_are_added_to_drafts_only(self, province: County) -> None:
        name = draft(province)
        wanted = {"about_region": REGION, "warning": A.WARNING_BIN_OVERFLOW, "statement": "清运频次不足"}
        asked = pb.CreateFindingRequest(parent=PROVINCE, finding={**wanted, "analysis_period": name})
        made = province.call("county", asked, **WRITER)
        said = pb.UpdateFindingRequest(name=made.name, finding={"statement": "清运频次明显不足"})
        assert province.call("county", said, **WRITER).statement == "清运频次明显不足"
        province.call("county", pb.ReviewAnalysisPeriodRequest(name=name), **CHIEF)
        with pytest.raises(errors.Invalid, match="no draft"):
            province.call("county", asked, **WRITER)
        more = pb.UpdateFindingRequest(name=made.name, finding={"measure": "加密清运"})
        with pytest.raises(errors.Invalid, match="no draft"):
            province.call("county", more, **WRITER)


class TestManuals:
    def test_one_version_is_in_force_and_read_by_everybody(self, province: County) -> None:
        first = manual(province, 1)
        second = manual(province, 2)
        old = as_public(province, pb.GetManualRequest(name=first))
        assert (old.state, old.superseded_by, old.drafter) == (M.STATE_SUPERSEDED, second, "")
        listed = as_public(province, pb.ListManualsRequest(parent=PROVINCE)).manuals
        assert [m.name for m in listed] == [second]
        asked = pb.DownloadManualDocumentRequest(name=second, sha256=PHOTO["sha256"])
        assert sample.PHOTO[:50] in province.raw("DownloadManualDocument", asked.SerializeToString(), {})

    @pytest.mark.parametrize("until", ["drafted", "reviewed"])
    def test_is_not_there_before_it_is_issued(self, province: County, until: str) -> None:
        name = manual(province, 1, until=until)
        for request in (
            pb.GetManualRequest(name=name),
            pb.DownloadManualDocumentRequest(name=name, sha256=PHOTO["sha256"]),
        ):
            with pytest.raises(errors.NotFound):
                as_public(province, request)
        for text in ("", 'code = "toilet-upkeep" OR edition = 1'):
            asked = pb.ListManualsRequest(parent=PROVINCE, filter=text)
            assert not as_public(province, asked).manuals
            assert len(province.call("county", asked, **WRITER).manuals) == 1
        sly = pb.ListManualsRequest(parent=PROVINCE, filter="edition = 1) OR (edition < 9")
        assert not as_public(province, sly).manuals

    def test_the_next_is_newer(self, province: County) -> None:
        manual(province, 3)
        name = manual(province, 2, until="reviewed")
        asked = pb.IssueManualRequest(name=name)
        assert refusal(province, "county", asked, **CHIEF) == "EDITION_NOT_NEWER"
        with pytest.raises(errors.AlreadyExists):
            manual(province, 3)

    def test_a_county_writes_none(self, province: County) -> None:
        asked = pb.DraftManualRequest(parent=PROVINCE, manual={"code": "x"})
        county = {"region": REGION, "iss": issuer(REGION)}
        assert refusal(province, "county", asked, **county) == "FORBIDDEN"
