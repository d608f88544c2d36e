"""H-11 饮用水水源: a source, the station that watches it, the calibrations of its instruments; and the
standards that its water is held against."""

import pytest

from mesh import errors
from tests.county import County
from tests.habitat.people import DIVISION, HERE, PARENT, refusal
from village.habitat.v1 import standard_pb2
from village.habitat.v1 import station_pb2 as pb

S = pb.Station
STANDARD = f"{PARENT}/standards/gb-3838-2002"
INSTRUMENTS = [
    {"factor": factor, "unit": unit, "low": low, "high": high, "interval_s": 3600, **more}
    for factor, unit, low, high, more in (
        ("w01010", "℃", -5, 50, {}), ("w01003", "NTU", 0, 500, {}),
        ("w01001", "", 0, 14, {"step": 2}),
        ("w01014", "μS/cm", 0, 5000, {}), ("w01009", "mg/L", 0, 20, {}),
        ("w01018", "mg/L", 0, 500, {"stuck": 6}), ("w01017", "mg/L", 0, 200, {}),
        ("w01002", "度", 0, 200, {}),
    )
]  # fmt: skip
"""The eight parameters of the guide, 五(二): 温度、浊度、pH、电导率、溶解氧、化学需氧量、生化需氧量、色度."""


def source(county: County) -> pb.WaterSource:
    wanted = {
        "title": "盘溪水库", "division": DIVISION, "location": HERE, "kind": pb.WaterSource.KIND_RESERVOIR,
        "served_people": 3200,
    }  # fmt: skip
    made: pb.WaterSource = county.call(
        "county", pb.CreateWaterSourceRequest(parent=PARENT, water_source=wanted)
    )
    return made


def station(county: County, wanted_id: str = "", **fields: object) -> pb.Station:
    wanted = {
        "title": "盘溪水库自动站", "division": DIVISION, "location": HERE, "kind": S.KIND_SOURCE_WATER,
        "device_number": "360423100201000000WQ0001", "device": "device-1", "protocol_version": "2017",
        "instruments": INSTRUMENTS, "standard": STANDARD, "standard_class": "Ⅲ", **fields,
    }  # fmt: skip
    request = pb.CreateStationRequest(parent=PARENT, station=wanted, station_id=wanted_id)
    made: pb.Station = county.call("county", request)
    return made


def calibration(county: County, of: str, **fields: object) -> pb.Calibration:
    now = int(county.now.timestamp())
    wanted = {
        "station": of, "factor": "w01018",
        "start_time": {"seconds": now - 3600}, "end_time": {"seconds": now - 60},
        "expected": 20, "measured": 21.5, "tolerance_percent": 10, "basis": "HJ 915.3", **fields,
    }  # fmt: skip
    made: pb.Calibration = county.call(
        "county", pb.CreateCalibrationRequest(parent=PARENT, calibration=wanted)
    )
    return made


class TestH11:
    def test_a_source_has_a_station_and_its_instruments_are_calibrated(self, county: County) -> None:
        made = station(county, subject=source(county).name)
        assert calibration(county, made.name).passed
        assert not calibration(county, made.name, measured=23).passed
        asked = pb.ListCalibrationsRequest(parent=PARENT, filter="passed = false")
        assert [c.measured for c in county.call("town", asked).calibrations] == [23]

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"standard": f"{PARENT}/standards/none"}, "station.standard"),
            ({"standard_class": "Ⅵ"}, "station.standard_class"),
            ({"standard": ""}, "station.standard_class"),
            ({"instruments": [*INSTRUMENTS, INSTRUMENTS[0]]}, "station.instruments"),
            ({"division": "360424100201"}, "station.division"),
        ],
    )
    def test_a_station_is_refused_with_the_field(
        self, county: County, fields: dict[str, object], field: str
    ) -> None:
        with pytest.raises(errors.Invalid) as refused:
            station(county, **fields)
        assert refused.value.violations[0][0] == field

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"factor": "w99999"}, "calibration.factor"),
            ({"end_time": {"seconds": 4_000_000_000}}, "calibration.end_time"),
        ],
    )
    def test_a_calibration_is_refused_with_the_field(
        self, county: County, fields: dict[str, object], field: str
    ) -> None:
        made = station(county)
        with pytest.raises(errors.Invalid) as refused:
            calibration(county, made.name, **fields)
        assert refused.value.violations[0][0] == field

    def test_a_station_is_changed_as_a_whole(self, county: County) -> None:
        made = station(county)
        change = pb.UpdateStationRequest(name=made.name, station={"standard_class": "Ⅸ"})
        assert refusal(county, "county", change) == "INVALID"
        kept = county.call("county", pb.GetStationRequest(name=made.name))
        assert (kept.standard_class, kept.etag) == ("Ⅲ", "1")


class TestStandards:
    def test_anybody_has_a_sample_graded(self, county: County) -> None:
        request = standard_pb2.GradeWaterRequest(
            name=STANDARD, water=standard_pb2.Standard.WATER_RIVER, required_class="Ⅲ",
            values=["w01018:18.4", "w21003:1.26", "w01014:186", "x-faecal-coli:50000", "w20141:<0.002"],
        )  # fmt: skip
        found = county.call("resident", request)
        assert (found.grade, list(found.worst), found.complies) == ("Ⅳ", ["w21003"], False)
        each = {f.factor: (f.grade, f.value, f.exceeds, f.unlimited) for f in found.factors}
        assert each == {
            "w01018": ("Ⅲ", "18", False, False), "w21003": ("Ⅳ", "1.3", True, False),
            "w01014": ("", "186", False, True), "x-faecal-coli": ("劣Ⅴ", "50000", True, False),
            "w20141": ("Ⅰ", "0.00", False, False),
        }  # fmt: skip

    def test_a_county_has_the_national_ones_from_the_start(self, county: County) -> None:
        found = county.call("town", standard_pb2.ListStandardsRequest(parent=PARENT)).standards
        assert {s.code for s in found} >= {"GB 3838-2002", "GB/T 14848-2017", "GB 5749-2022", "GB 18918-2002"}

    def test_a_county_issues_one_of_its_own_beside_them(self, county: County) -> None:
        wanted = county.call("county", standard_pb2.GetStandardRequest(name=STANDARD))
        wanted.code = "DB 36/T 999-2026"
        wanted.valid_from.year = 2026
        request = standard_pb2.IssueStandardRequest(parent=PARENT, standard=wanted, standard_id="own")
        issued = county.call("county", request)
        assert issued.name == f"{PARENT}/standards/own"
        listed = county.call("town", standard_pb2.ListStandardsRequest(parent=PARENT)).standards
        assert {"DB 36/T 999-2026", "GB 3838-2002"} <= {s.code for s in listed}

    def test_one_whose_bounds_do_not_fit_its_classes_is_refused(self, county: County) -> None:
        wanted = county.call("county", standard_pb2.GetStandardRequest(name=STANDARD))
        del wanted.limits[0].bounds[4]
        request = standard_pb2.IssueStandardRequest(parent=PARENT, standard=wanted, standard_id="own")
        with pytest.raises(errors.Invalid, match=r"standard\.limits\[0\]\.bounds"):
            county.call("county", request)
