"""H-13 超标、供水处置 (SM-4): values beyond a limit raise an exceedance, a county warns and acts, and normal
values end it."""

import pytest

from mesh import calls, errors
from services.habitat import exceedances
from tests.county import County
from tests.habitat.people import DIVISION, PARENT, before, refusal
from tests.habitat.test_h11_sources import source, station
from tests.habitat.test_h13_samples import received, reported, result
from village.habitat.v1 import exceedance_pb2 as pb
from village.habitat.v1 import figure_pb2, sample_pb2, station_pb2

E, A = pb.Exceedance, pb.SupplyAction
COD = {"factor": "w01018", "limit": 20.0, "side": E.SIDE_ABOVE, "standard": "GB 3838-2002 Ⅲ"}


def measured(county: County, at: str, *values: float) -> None:
    """Values of COD as telemetry hands them over, an hour between each."""
    for value in values:
        county.pass_time(hours=1)
        call = calls.own(county.store, "take_readings", county.now)
        if value > 20:
            where = call.find(station_pb2.Station, at)
            assert where is not None
            exceedances.suspect(call, station=where, value=value, time=county.now, **COD)
        else:
            exceedances.normal(call, station=at, factor="w01018", value=value, time=county.now)
        if commit := call.changes.commit():
            county.store.commit(commit)


def of(county: County, at: str) -> list[pb.Exceedance]:
    asked = pb.ListExceedancesRequest(parent=PARENT, filter=f'station = "{at}"', order_by="first_time")
    return list(county.call("county", asked).exceedances)


def notice(county: County) -> str:
    wanted = {"division": DIVISION, "text": "盘溪水库供水暂停饮用，请到村部取水"}
    request = pb.CreateUserNoticeRequest(parent=PARENT, user_notice=wanted)
    return str(county.call("county", request).name)


def action(county: County, name: str, **fields: object) -> str:
    wanted = {"exceedance": name, "kind": A.KIND_STOP, "start_time": before(county), **fields}
    request = pb.CreateSupplyActionRequest(parent=PARENT, supply_action=wanted)
    return str(county.call("county", request).name)


def in_action(county: County) -> pb.Exceedance:
    at = station(county).name
    measured(county, at, 24, 25, 26)
    (found,) = of(county, at)
    county.call("county", pb.WarnExceedanceRequest(name=found.name, user_notice=notice(county)))
    county.pass_time(hours=2)
    request = pb.ActExceedanceRequest(name=found.name, supply_actions=[action(county, found.name)])
    acted: pb.Exceedance = county.call("county", request)
    return acted


class TestReadings:
    def test_confirm_one_after_the_other_and_only_then(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24, 25)
        assert [e.state for e in of(county, at)] == [E.STATE_SUSPECTED]
        measured(county, at, 23)
        (found,) = of(county, at)
        assert (found.state, found.confirmed_by) == (E.STATE_CONFIRMED, E.PROOF_CONSECUTIVE)
        assert (found.over_count, found.value, found.worst_value, found.last_value) == (3, 24, 25, 23)

    def test_a_normal_value_between_dismisses_the_suspicion(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24, 25, 18, 26, 27)
        assert [e.state for e in of(county, at)] == [E.STATE_DISMISSED, E.STATE_SUSPECTED]

    def test_the_same_value_again_counts_once(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24)
        county.pass_time(hours=-1)
        measured(county, at, 24, 25)
        county.pass_time(hours=-2)
        measured(county, at, 18)
        (found,) = of(county, at)
        assert (found.state, found.over_count) == (E.STATE_SUSPECTED, 2)

    def test_the_region_s_own_rule_counts(self, county: County) -> None:
        rule = {
            "factor": "w01018", "confirm_count": 1, "recover_count": 2, "basis": "县监测规程",
            "confidence": pb.ExceedanceRule.CONFIDENCE_LOW, "effective_time": before(county),
        }  # fmt: skip
        county.call("county", pb.CreateExceedanceRuleRequest(parent=PARENT, exceedance_rule=rule))
        at = station(county).name
        measured(county, at, 24)
        assert of(county, at)[0].state == E.STATE_CONFIRMED

    def test_end_it_when_enough_are_normal_one_after_the_other(self, county: County) -> None:
        acted = in_action(county)
        measured(county, acted.station, 18, 19, 22, 18, 18)
        assert refusal(county, "county", pb.RecoverExceedanceRequest(name=acted.name)) == "NOT_BACK_TO_NORMAL"
        measured(county, acted.station, 17)
        (found,) = of(county, acted.station)
        assert (found.state, found.normal_count) == (E.STATE_RECOVERED, 3)
        assert county.call("county", pb.CloseExceedanceRequest(name=found.name)).state == E.STATE_CLOSED
        measured(county, acted.station, 30)
        assert [e.state for e in of(county, acted.station)] == [E.STATE_CLOSED, E.STATE_SUSPECTED]

    def test_that_came_before_the_action_let_the_county_end_it(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24, 25, 26)
        name = of(county, at)[0].name
        county.call("county", pb.WarnExceedanceRequest(name=name, user_notice=notice(county)))
        measured(county, at, 18, 18, 18)
        done = action(county, name)
        acted = county.call("county", pb.ActExceedanceRequest(name=name, supply_actions=[done]))
        assert (acted.state, acted.normal_count) == (E.STATE_ACTION, 3)
        ended = county.call("county", pb.RecoverExceedanceRequest(name=name, reason="复测正常"))
        assert ended.state == E.STATE_RECOVERED

    def test_below_a_least_value_is_beyond_it(self) -> None:
        assert exceedances.beyond(4.9, 5, E.SIDE_BELOW)
        assert not exceedances.beyond(5, 5, E.SIDE_BELOW)
        assert not exceedances.beyond(20, 20, E.SIDE_ABOVE)


class TestH13:
    def test_the_hours_to_the_action_are_counted(self, county: County) -> None:
        acted = in_action(county)
        assert (acted.state, acted.action_hours) == (E.STATE_ACTION, 4)
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-13.2"])).figures
        assert (found[0].value.value, found[0].unit) == ("4.00", "h")

    def test_it_is_warned_of_before_it_is_acted_on_and_acting_needs_an_action(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24, 25, 26)
        name = of(county, at)[0].name
        done = action(county, name)
        early = pb.ActExceedanceRequest(name=name, supply_actions=[done])
        assert refusal(county, "county", early) == "ACTION_NOT_ALLOWED"
        county.call("county", pb.WarnExceedanceRequest(name=name, user_notice=notice(county)))
        assert refusal(county, "county", pb.ActExceedanceRequest(name=name)) == "INVALID"
        others = action(county, in_action_elsewhere(county))
        with pytest.raises(errors.Invalid, match=r"supply_actions\[0\]"):
            county.call("county", pb.ActExceedanceRequest(name=name, supply_actions=[others]))
        assert refusal(county, "town", early) == "FORBIDDEN"

    def test_users_read_their_notice_without_a_token(self, county: County) -> None:
        name = notice(county)
        assert "取水" in county.call("resident", pb.GetUserNoticeRequest(name=name)).text
        assert refusal(county, "resident", pb.ListExceedancesRequest(parent=PARENT)) == "FORBIDDEN"

    def test_a_laboratory_confirms_what_is_of_the_same_water(self, county: County) -> None:
        water = source(county).name
        at = station(county, subject=water).name
        measured(county, at, 24)
        name = of(county, at)[0].name
        county.pass_time(hours=3)
        low, high = reported(county, water), reported(county, water, value=23.5)
        other, unreported = reported(county, value=30), result(county, received(county, water), value=30).name
        for sample, why in ((low, "not lie beyond"), (other, "other water")):
            request = pb.ConfirmExceedanceRequest(name=name, lab_result=found(county, sample))
            with pytest.raises(errors.Refused, match=why):
                county.call("county", request)
        request = pb.ConfirmExceedanceRequest(name=name, lab_result=unreported)
        assert refusal(county, "county", request) == "RESULT_DOES_NOT_CONFIRM"
        request = pb.ConfirmExceedanceRequest(name=name, lab_result=found(county, high))
        assert county.call("county", request).confirmed_by == E.PROOF_LABORATORY

    def test_a_limit_that_is_missed_rises(self, county: County) -> None:
        at = station(county).name
        measured(county, at, 24, 25, 26)
        county.pass_time(hours=3)
        county.hosted.tick()
        assert of(county, at)[0].overdue

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"kind": A.KIND_SWITCH_SOURCE}, "supply_action.switched_to"),
            ({"kind": A.KIND_STOP, "switched_to": f"{PARENT}/waterSources/x"}, "supply_action.switched_to"),
            ({"kind": A.KIND_NOTIFY}, "supply_action.user_notice"),
            ({"end_time": {"seconds": 1}}, "supply_action.end_time"),
            ({"exceedance": f"{PARENT}/exceedances/none"}, "supply_action.exceedance"),
        ],
    )
    def test_an_action_says_what_its_kind_wants(
        self, county: County, fields: dict[str, object], field: str
    ) -> None:
        with pytest.raises(errors.Invalid) as refused:
            action(county, in_action(county).name, **fields)
        assert refused.value.violations[0][0] == field

    def test_the_county_raises_one_itself_and_of_each_there_is_one(self, county: County) -> None:
        wanted = {**COD, "station": station(county).name, "value": 24, "first_time": before(county, hours=1)}
        request = pb.SuspectExceedanceRequest(parent=PARENT, exceedance=wanted)
        raised = county.call("county", request)
        assert refusal(county, "county", request) == "ALREADY_EXISTS"
        county.call("county", pb.DismissExceedanceRequest(name=raised.name, reason="采样污染"))
        assert refusal(county, "county", request) == "OK"
        normal = {**wanted, "value": 20}
        request = pb.SuspectExceedanceRequest(parent=PARENT, exceedance=normal)
        assert refusal(county, "county", request) == "INVALID"


def in_action_elsewhere(county: County) -> str:
    at = station(county, device_number="360423100201000000WQ0002").name
    measured(county, at, 24)
    return str(of(county, at)[0].name)


def found(county: County, sample: str) -> str:
    asked = sample_pb2.ListLabResultsRequest(parent=PARENT, filter=f'sample = "{sample}"')
    return str(county.call("county", asked).lab_results[0].name)
