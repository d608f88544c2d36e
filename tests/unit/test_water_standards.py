"""Values held against standards, with what the standards themselves say (GB 3838, GB/T 14848, GB 5749,
GB 18918)."""

from decimal import Decimal

import pytest

from mesh import errors
from services.habitat import standards
from village.habitat.v1.standard_pb2 import Standard

KNOWN = standards.shipped()


def grades(standard: str, water: int = Standard.WATER_RIVER, **values: str) -> dict[str, str]:
    of = KNOWN[standard]
    names = [*of.classes, of.below]
    found = standards.grade(of, {k: standards.half(v) for k, v in values.items()}, water=water)
    return {g.factor: "" if g.grade is None else names[g.grade] for g in found}


def exceeds(standard: str, required: str, **values: str) -> set[str]:
    found = standards.grade(KNOWN[standard], {k: Decimal(v) for k, v in values.items()}, required=required)
    return {g.factor for g in found if g.exceeds}


class TestRounding:
    @pytest.mark.parametrize(
        ("value", "limit", "found"),
        [
            *(("0.25", "0.1", "0.2"), ("0.35", "0.1", "0.4"), ("0.2500001", "0.1", "0.3")),
            *(
                ("20.5", "20", "20"),
                ("21.5", "20", "22"),
                ("20.49", "20", "20"),
                ("0.0125", "0.025", "0.012"),
            ),
        ],
    )
    def test_is_half_to_even_to_the_decimals_of_the_limit(self, value: str, limit: str, found: str) -> None:
        assert standards.rounded(Decimal(value), limit) == Decimal(found)

    def test_decides_before_it_is_compared(self) -> None:
        assert exceeds("gb-3838-2002", "Ⅲ", w01018="20.5") == set()
        assert exceeds("gb-3838-2002", "Ⅲ", w01018="20.51") == {"w01018"}

    def test_takes_half_of_the_detection_limit_below_it(self) -> None:
        assert standards.half("<0.025") == Decimal("0.0125")


class TestSurfaceWater:
    @pytest.mark.parametrize(
        ("factor", "value", "found"),
        [
            *(("w01018", "15", "Ⅰ"), ("w01018", "16", "Ⅲ"), ("w01018", "40", "Ⅴ"), ("w01018", "41", "劣Ⅴ")),
            *(("w01009", "7.5", "Ⅰ"), ("w01009", "5", "Ⅲ"), ("w01009", "1.9", "Ⅴ"), ("w01009", "1", "劣Ⅴ")),
            *(("w21003", "0.15", "Ⅰ"), ("w21003", "1.0", "Ⅲ"), ("w21003", "2.1", "劣Ⅴ")),
            *(("w01001", "6", "Ⅰ"), ("w01001", "9.6", "劣Ⅴ"), ("w20111", "0.0001", "Ⅲ")),
        ],
    )
    def test_has_the_classes_of_gb_3838(self, factor: str, value: str, found: str) -> None:
        assert grades("gb-3838-2002", **{factor: value}) == {factor: found}

    def test_asks_for_less_phosphorus_in_lakes(self) -> None:
        assert grades("gb-3838-2002", Standard.WATER_RIVER, w21011="0.1") == {"w21011": "Ⅱ"}
        assert grades("gb-3838-2002", Standard.WATER_LAKE, w21011="0.1") == {"w21011": "Ⅳ"}

    def test_has_no_limit_for_nitrogen_in_rivers_turbidity_and_conductivity(self) -> None:
        found = grades("gb-3838-2002", w21001="9", w01003="40", w01014="900", w01002="30")
        assert set(found.values()) == {""}

    def test_takes_saturated_oxygen_for_the_first_class_in_warm_water(self) -> None:
        assert grades("gb-3838-2002", w01009="7.2", w01010="30")["w01009"] == "Ⅰ"  # 95 % of 7.60
        assert grades("gb-3838-2002", w01009="7.2", w01010="15")["w01009"] == "Ⅱ"  # 72 % of 10.04

    def test_of_faecal_coliforms_counts_not_for_the_whole(self) -> None:
        (found,) = standards.grade(KNOWN["gb-3838-2002"], {"x-faecal-coli": Decimal(50_000)})
        assert (found.grade, found.counted) == (5, False)


class TestGroundwater:
    @pytest.mark.parametrize(
        ("value", "found"),
        [("6.5", "Ⅰ"), ("8.5", "Ⅰ"), ("6.4", "Ⅳ"), ("9.0", "Ⅳ"), ("5.4", "Ⅴ"), ("9.1", "Ⅴ")],
    )
    def test_has_ph_on_both_sides(self, value: str, found: str) -> None:
        assert grades("gb-t-14848-2017", w01001=value) == {"w01001": found}

    def test_has_no_sixth_class(self) -> None:
        assert grades("gb-t-14848-2017", w21003="99") == {"w21003": "Ⅴ"}


class TestDrinkingWater:
    def test_is_never_measured_by_dichromate(self) -> None:
        """COD(Cr) and COD(Mn) are different analytes: 化学需氧量 has no limit there."""
        assert grades("gb-5749-2022", w01018="30") == {"w01018": ""}
        assert exceeds("gb-5749-2022", "限值", w01018="30", w01019="3.6") == {"w01019"}
        assert grades("gb-t-14848-2017", w01018="30") == {"w01018": ""}

    def test_of_a_small_supply_may_be_less_clear(self) -> None:
        assert exceeds("gb-5749-2022", "限值", w01003="2", w21017="1.2") == {"w01003", "w21017"}
        assert exceeds("gb-5749-2022", "小型集中供水和分散式供水", w01003="2", w21017="1.2") == set()


class TestSewage:
    def test_may_have_more_ammonia_in_the_cold(self) -> None:
        assert exceeds("gb-18918-2002", "一级A", w21003="7", w01010="12.1") == {"w21003"}
        assert exceeds("gb-18918-2002", "一级A", w21003="7", w01010="12") == set()

    def test_needs_the_temperature_for_that(self) -> None:
        with pytest.raises(errors.Invalid, match="w01010"):
            exceeds("gb-18918-2002", "一级A", w21003="7")

    def test_of_the_second_grade_has_no_limit_of_nitrogen(self) -> None:
        assert exceeds("gb-18918-2002", "二级", w21001="60", w21011="2") == set()
        assert exceeds("gb-18918-2002", "一级B", w21001="20.6") == {"w21001"}


class TestEveryStandard:
    @pytest.mark.parametrize("name", KNOWN)
    def test_has_a_bound_for_each_class_and_says_since_when_and_how_sure(self, name: str) -> None:
        standard = KNOWN[name]
        assert all(len(limit.bounds) == len(standard.classes) for limit in standard.limits)
        assert standard.valid_from.year
        assert standard.confidence

    @pytest.mark.parametrize("name", KNOWN)
    def test_is_never_looser_in_a_better_class(self, name: str) -> None:
        for limit in KNOWN[name].limits:
            if name == "gb-5749-2022":
                continue
            tops = [Decimal(b.max or "Infinity") for b in limit.bounds]
            lows = [Decimal(b.min or "-Infinity") for b in limit.bounds]
            assert tops == sorted(tops), limit
            assert lows == sorted(lows, reverse=True), limit
