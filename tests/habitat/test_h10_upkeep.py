"""H-10 长效管护: an asset gets a keeper, is checked, and the keeper is scored by a formula that can be seen
and objected to."""

from typing import Any

import pytest

from mesh import errors, resources
from services.habitat import upkeep
from tests.county import PHOTO, County
from tests.habitat.people import DIVISION, HERE, PARENT, refusal, verbs_of
from tests.loop import rows
from village.habitat.v1 import upkeep_pb2 as pb

A, P, K = pb.Asset, pb.ScorePeriod, pb.KeeperScore


def asset(county: County, kind: int = A.KIND_TOILET) -> str:
    wanted = {"division": DIVISION, "title": "北岸公厕", "kind": kind, "location": HERE}
    return str(county.call("town", pb.CreateAssetRequest(parent=PARENT, asset=wanted)).name)


def keeper(county: County, account: str = "keeper-1") -> str:
    wanted = {
        "division": DIVISION, "post": "北岸保洁员", "person_name": "欧阳小娜", "phone": "13812348000",
        "account": account, "active": True,
    }  # fmt: skip
    return str(county.call("village", pb.CreateKeeperRequest(parent=PARENT, keeper=wanted)).name)


def roster(county: County, of: str, *assets: str) -> str:
    wanted = {"keeper": of, "assets": assets, "times_per_week": 7}
    return str(county.call("village", pb.CreateRosterRequest(parent=PARENT, roster=wanted)).name)


def check(county: County, of: str, score: int, who: str = "town", **claims: Any) -> pb.Check:
    wanted = {"asset": of, "score": score, "evidence": [PHOTO]}
    made: pb.Check = county.call(who, pb.CreateCheckRequest(parent=PARENT, check=wanted), **claims)
    return made


def period(county: County, **fields: Any) -> str:
    wanted = {
        "division": DIVISION, "title": "三月考核", "start_time": resources.stamp(county.now),
        "end_time": {"seconds": int(county.now.timestamp()) + 30 * 86_400},
        "weights": [{"kind": A.KIND_TOILET, "percent": 70}, {"kind": A.KIND_WASTE, "percent": 30}],
        "formula_version": "1", "basis": "县长效管护办法", "minimum_checks": 2, **fields,
    }  # fmt: skip
    asked = pb.OpenScorePeriodRequest(parent=PARENT, score_period=wanted)
    return str(county.call("town", asked).name)


def scored(county: County) -> tuple[str, pb.KeeperScore]:
    """A period in which the keeper got 83.5 = 0.7 × 85 + 0.3 × 80."""
    toilet, bin_ = asset(county), asset(county, A.KIND_WASTE)
    roster(county, keeper(county), toilet, bin_)
    name = period(county)
    for of, score in ((toilet, 80), (toilet, 90), (bin_, 80)):
        check(county, of, score)
    county.call("town", pb.CheckScorePeriodRequest(name=name))
    county.call("town", pb.ComputeScorePeriodRequest(name=name))
    (found,) = county.call("town", pb.ListKeeperScoresRequest(parent=PARENT)).keeper_scores
    return name, found


def object_(score: pb.KeeperScore) -> pb.ObjectToKeeperScoreRequest:
    return pb.ObjectToKeeperScoreRequest(name=score.name, objection="停水三天")


class TestUpkeep:
    def test_an_asset_has_one_keeper_at_a_time(self, county: County) -> None:
        of, first, second = asset(county), keeper(county), keeper(county, "keeper-2")
        covered = pb.ListAssetsRequest(parent=PARENT, filter="keeper:*")
        assert not county.call("town", covered).assets
        name = roster(county, first, of)
        assert county.call("town", covered).assets[0].keeper == first
        wanted = {"keeper": second, "assets": [of], "times_per_week": 7}
        again = pb.CreateRosterRequest(parent=PARENT, roster=wanted)
        assert refusal(county, "village", again) == "ASSET_KEPT_ALREADY"
        county.call("village", pb.EndRosterRequest(name=name))
        assert refusal(county, "village", again) == "OK"
        assert verbs_of(county, of) == ["created", "assigned", "released", "assigned"]

    def test_who_keeps_it_up_is_masked_and_stays_in_the_county(self, county: County) -> None:
        name = keeper(county)
        shown = county.call("town", pb.GetKeeperRequest(name=name))
        assert (shown.person_name, shown.phone, shown.account) == ("欧**娜", "138****8000", "")
        (payload,) = rows(county, "SELECT payload FROM mesh_outbox WHERE name = :n", n=name)[0]
        assert pb.KeeperCreated.FromString(bytes(payload)).keeper == pb.Keeper(name=name, etag="1")
        kept = rows(county, "SELECT person_name, phone, account FROM keepers")[0]
        assert not {"欧阳小娜", "13812348000", "keeper-1"} & set(kept)

    def test_nobody_checks_what_he_keeps_up(self, county: County) -> None:
        of = asset(county)
        with pytest.raises(upkeep.AssetKeptByNobody):
            check(county, of, 90)
        roster(county, keeper(county), of)
        with pytest.raises(upkeep.CheckedByKeeper):
            check(county, of, 90, sub="keeper-1")
        for score in (101, -1):
            with pytest.raises(errors.Invalid, match="score"):
                check(county, of, score)
        assert check(county, of, 0).score == 0

    def test_a_score_is_the_weighted_mean_and_shows_its_parts(self, county: County) -> None:
        _, found = scored(county)
        assert (found.score, found.final_score, found.check_count) == (83.5, 83.5, 3)
        assert [(p.kind, p.percent, p.check_count, p.mean) for p in found.parts] == [
            (A.KIND_WASTE, 30, 1, 80),
            (A.KIND_TOILET, 70, 2, 85),
        ]
        assert found.formula_version == "1"

    def test_rounds_halves_up_and_leaves_out_what_was_not_checked(self) -> None:
        weights = {A.KIND_TOILET: 50, A.KIND_WASTE: 50}
        assert upkeep.weighted_mean({A.KIND_TOILET: [80, 80, 81, 80]}, weights)[0] == 80.3  # 80.25
        assert upkeep.by_keeper([("k", A.KIND_SEWAGE, 9)], weights) == {}

    def test_too_few_checks_give_no_score(self, county: County) -> None:
        of = asset(county)
        roster(county, keeper(county), of)
        name = period(county)
        check(county, of, 90)
        county.call("town", pb.CheckScorePeriodRequest(name=name))
        done = county.call("town", pb.ComputeScorePeriodRequest(name=name))
        assert (done.keeper_count, done.scored_count) == (1, 0)

    def test_checks_outside_the_period_do_not_count(self, county: County) -> None:
        of = asset(county)
        roster(county, keeper(county), of)
        check(county, of, 0)
        county.pass_time(days=1)
        name = period(county, minimum_checks=1)
        check(county, of, 90)
        county.call("town", pb.CheckScorePeriodRequest(name=name))
        county.call("town", pb.ComputeScorePeriodRequest(name=name))
        (found,) = county.call("town", pb.ListKeeperScoresRequest(parent=PARENT)).keeper_scores
        assert found.score == 90

    def test_a_formula_makes_a_hundred_percent(self, county: County) -> None:
        for weights in (
            [{"kind": A.KIND_TOILET, "percent": 90}],
            [{"kind": A.KIND_TOILET, "percent": 50}, {"kind": A.KIND_TOILET, "percent": 50}],
        ):
            with pytest.raises(errors.Invalid, match="weights"):
                period(county, weights=weights)


class TestScores:
    def test_is_seen_by_the_person_and_by_no_other_keeper(self, county: County) -> None:
        _, found = scored(county)
        seen = county.call("keeper", pb.GetKeeperScoreRequest(name=found.name))
        assert (seen.score, len(seen.parts)) == (83.5, 2)
        other = {"sub": "keeper-2"}
        assert refusal(county, "keeper", pb.GetKeeperScoreRequest(name=found.name), **other) == "FORBIDDEN"
        steps = pb.ListKeeperScoreStepsRequest(parent=found.name)
        assert [s.action for s in county.call("keeper", steps).steps][:1] == ["compute"]
        assert refusal(county, "keeper", steps, **other) == "FORBIDDEN"
        for text in ("", "score > 0", "score > 0) OR (score < 1"):
            listed = pb.ListKeeperScoresRequest(parent=PARENT, filter=text)
            assert not county.call("keeper", listed, **other).keeper_scores
            assert len(county.call("keeper", listed).keeper_scores) == 1
        for who in ("auditor", "resident"):
            got = refusal(county, who, pb.GetKeeperScoreRequest(name=found.name))
            assert got == "FORBIDDEN"

    def test_is_objected_to_by_the_person_and_decided_by_the_county(self, county: County) -> None:
        name, found = scored(county)
        assert refusal(county, "keeper", object_(found), sub="keeper-2") == "FORBIDDEN"
        assert county.call("keeper", object_(found)).state == K.STATE_OBJECTED
        assert refusal(county, "keeper", object_(found)) == "ACTION_NOT_ALLOWED"
        county.pass_time(days=10)
        publish = pb.PublishScorePeriodRequest(name=name)
        assert refusal(county, "town", publish) == "OBJECTION_UNDECIDED"
        decide = pb.DecideKeeperScoreRequest(name=found.name, decision="停水属实", score=88)
        assert refusal(county, "town", decide) == "FORBIDDEN"
        decided = county.call("county", decide)
        assert (decided.state, decided.score, decided.final_score) == (K.STATE_DECIDED, 83.5, 88)
        assert county.call("town", publish).state == P.STATE_PUBLISHED

    def test_is_published_after_the_days_to_object(self, county: County) -> None:
        name, found = scored(county)
        publish = pb.PublishScorePeriodRequest(name=name)
        assert refusal(county, "town", publish) == "OBJECTION_STILL_POSSIBLE"
        county.pass_time(days=8)
        assert refusal(county, "keeper", object_(found)) == "OBJECTION_TOO_LATE"
        assert refusal(county, "town", publish) == "OK"
        assert refusal(county, "keeper", object_(found)) == "OBJECTION_TOO_LATE"

    def test_is_not_known_above_the_county(self, county: County) -> None:
        _, found = scored(county)
        (payload,) = rows(county, "SELECT payload FROM mesh_outbox WHERE name = :n", n=found.name)[0]
        event = pb.KeeperScoreComputed.FromString(bytes(payload))
        assert event.keeper_score == K(name=found.name, etag="1")
