"""H-18 畜禽粪污、秸秆: farms keep their own records of manure and straw, and the rates of use are sums."""

import pytest

from mesh import errors
from tests.county import FARM_2_UNIT, FARM_UNIT, County
from tests.habitat.people import DIVISION, PARENT, refusal
from village.habitat.v1 import farm_waste_pb2 as pb
from village.habitat.v1 import figure_pb2


def farm(county: County, who: str = "farm", unit: str = FARM_UNIT) -> str:
    wanted = {
        "division": DIVISION, "title": "北岸养殖专业合作社", "unit": unit, "head_count": 1200,
        "kinds": [pb.Farm.KIND_PIGS, pb.Farm.KIND_CROPS],
    }  # fmt: skip
    return str(county.call(who, pb.CreateFarmRequest(parent=PARENT, farm=wanted)).name)


def manure(county: County, of: str, who: str = "farm", **fields: object) -> pb.ManureRecord:
    wanted = {
        "farm": of, "period": "2026-Q1", "head_count": 1150, "produced_t": 300, "returned_t": 150,
        "biogas_t": 60, "composted_t": 30, **fields,
    }  # fmt: skip
    made: pb.ManureRecord = county.call(
        who, pb.CreateManureRecordRequest(parent=PARENT, manure_record=wanted)
    )
    return made


def straw(county: County, of: str, **fields: object) -> pb.StrawPlot:
    wanted = {
        "farm": of, "period": "2026", "crop": "水稻", "area_mu": 300, "collectable_t": 120,
        "fertiliser_t": 80, "feed_t": 20, **fields,
    }  # fmt: skip
    made: pb.StrawPlot = county.call("farm", pb.CreateStrawPlotRequest(parent=PARENT, straw_plot=wanted))
    return made


class TestH18:
    def test_rates_of_use_are_sums_over_sums(self, county: County) -> None:
        one, other = farm(county), farm(county, "farm_2", FARM_2_UNIT)
        manure(county, one)
        manure(county, other, "farm_2", produced_t=100, returned_t=20, biogas_t=0, composted_t=0)
        straw(county, one)
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-18"])).figures
        assert [(f.numerator, f.denominator, f.value.value) for f in found] == [
            (260, 400, "65.00"), (100, 120, "83.33"),
        ]  # fmt: skip

    def test_a_farm_reads_and_writes_its_own(self, county: County) -> None:
        one, other = farm(county), farm(county, "county", FARM_2_UNIT)
        made = manure(county, one)
        assert [f.name for f in county.call("farm", pb.ListFarmsRequest(parent=PARENT)).farms] == [one]
        assert not county.call("farm_2", pb.ListManureRecordsRequest(parent=PARENT)).manure_records
        assert refusal(county, "farm_2", pb.GetManureRecordRequest(name=made.name)) == "FORBIDDEN"
        with pytest.raises(errors.Forbidden):
            manure(county, other)
        with pytest.raises(errors.Invalid, match=r"farm\.unit"):
            farm(county, "farm", FARM_2_UNIT)
        assert len(county.call("town", pb.ListFarmsRequest(parent=PARENT)).farms) == 2

    def test_it_does_not_hand_itself_to_another(self, county: County) -> None:
        change = pb.UpdateFarmRequest(name=farm(county), farm={"unit": FARM_2_UNIT})
        assert refusal(county, "farm", change) == "INVALID"

    def test_no_more_is_used_than_there_was(self, county: County) -> None:
        of = farm(county)
        with pytest.raises(errors.Invalid, match="produced_t"):
            manure(county, of, entrusted_t=61)
        with pytest.raises(errors.Invalid, match="collectable_t"):
            straw(county, of, fuel_t=21)
        made = manure(county, of)
        assert made.used_t == 240
        change = pb.UpdateManureRecordRequest(name=made.name, manure_record={"entrusted_t": 60})
        assert county.call("farm", change).used_t == 300
        change.manure_record.entrusted_t = 61
        assert refusal(county, "farm", change) == "INVALID"

    def test_a_period_has_one_record_and_keeps_its_farm(self, county: County) -> None:
        one, other = farm(county), farm(county, "county", FARM_2_UNIT)
        made = manure(county, one)
        with pytest.raises(errors.AlreadyExists):
            manure(county, one)
        manure(county, one, period="2026-Q2")
        change = pb.UpdateManureRecordRequest(name=made.name, manure_record={"farm": other})
        assert refusal(county, "county", change) == "INVALID"

    @pytest.mark.parametrize("period", ["2026", "2026-Q5", "26-Q1"])
    def test_manure_is_kept_by_the_quarter(self, county: County, period: str) -> None:
        with pytest.raises(errors.Invalid, match="period"):
            manure(county, farm(county), period=period)
