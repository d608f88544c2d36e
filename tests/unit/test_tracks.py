"""The area that a machine worked, against fields whose area is known."""

import math

import pytest

from services.habitat import tracks

NORTH = 29.26


def fix(time_s: float, east_m: float, north_m: float, depth_cm: float = 30) -> tracks.Fix:
    east = east_m / (tracks.METRES_PER_DEGREE * math.cos(math.radians(NORTH)))
    return tracks.Fix(time_s, NORTH + north_m / tracks.METRES_PER_DEGREE, 115.1 + east, depth_cm)


def field(lanes: int, apart_m: float, length_m: float = 100) -> list[tracks.Fix]:
    """Back and forth in lanes, a point every 10 m and 5 s; turning at the ends takes too long to count."""
    found = []
    for lane in range(lanes):
        for n in range(int(length_m) // 10 + 1):
            along = n * 10 if lane % 2 == 0 else length_m - n * 10
            found.append(fix(lane * 1000 + n * 5, along, lane * apart_m))
    return found


def worked(fixes: list[tracks.Fix], **fields: float) -> tracks.Worked:
    wanted = {"width_m": 3.0, "longest_gap_s": 60.0, "fastest_kmh": 30.0, **fields}
    return tracks.worked(fixes, **wanted)


class TestArea:
    def test_of_a_straight_lane_is_length_by_width(self) -> None:
        assert worked(field(1, 0)).area_m2 == pytest.approx(300, rel=0.01)

    def test_is_the_same_whichever_way_the_lane_lies(self) -> None:
        slanting = [fix(n * 5, n * 6, n * 8) for n in range(11)]
        assert worked(slanting).area_m2 == pytest.approx(300, rel=0.02)
        assert worked(slanting[::-1]).area_m2 == pytest.approx(300, rel=0.02)

    def test_of_lanes_side_by_side_is_their_sum(self) -> None:
        found = worked(field(10, 3))
        assert found.area_m2 == pytest.approx(3000, rel=0.01)
        assert found.overlap_m2 == pytest.approx(0, abs=10)

    def test_counts_what_is_passed_twice_once(self) -> None:
        found = worked(field(2, 0))
        assert found.area_m2 == pytest.approx(300, rel=0.01)
        assert found.overlap_m2 == pytest.approx(300, rel=0.01)
        half = worked(field(2, 1.5))
        assert half.area_m2 == pytest.approx(450, rel=0.02)
        assert half.overlap_m2 == pytest.approx(150, rel=0.05)

    def test_does_not_join_points_over_a_gap_or_a_jump(self) -> None:
        assert worked([fix(0, 0, 0), fix(61, 100, 0)]).area_m2 == 0
        assert worked([fix(0, 0, 0), fix(5, 100, 0)]).area_m2 == 0
        assert worked([fix(0, 0, 0), fix(60, 100, 0)]).area_m2 == pytest.approx(300, rel=0.01)

    def test_leaves_out_where_it_was_not_deep_enough(self) -> None:
        track = [fix(n * 5, n * 10, 0, 30 if n <= 5 else 20) for n in range(11)]
        found = worked(track, least_depth_cm=25)
        assert found.area_m2 == pytest.approx(150, rel=0.02)
        assert found.mean_depth_cm == 30
        assert worked(track).area_m2 == pytest.approx(300, rel=0.01)

    def test_of_nothing_and_of_one_point_is_nothing(self) -> None:
        assert worked([]) == worked([fix(0, 0, 0)][:0]) == tracks.Worked(0, 0, 0)
        assert worked([fix(0, 0, 0)]).area_m2 == 0

    def test_does_not_hang_on_the_order_of_points(self) -> None:
        track = field(3, 3)
        assert worked(track[::-1]) == worked(track)


class TestMu:
    def test_is_two_thousand_thirds_of_a_square_metre(self) -> None:
        assert tracks.m2_of(3) == 2000
        assert tracks.mu_of(2000) == 3
        assert tracks.mu_of(tracks.m2_of(3_938_000)) == 3_938_000
        assert tracks.m2_of(3_938_000) / 1e6 == pytest.approx(2625.33, abs=0.01)
