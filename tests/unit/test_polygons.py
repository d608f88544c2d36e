"""Areas of polygons against squares whose area is known."""

import math

import pytest
from google.type.latlng_pb2 import LatLng

from services.habitat import polygons


def square(south: float, side: float) -> list[LatLng]:
    corners = ((0, 0), (0, side), (side, side), (side, 0))
    return [LatLng(latitude=south + up, longitude=115 + right) for up, right in corners]


class TestArea:
    def test_of_a_degree_at_the_equator_and_in_wuning(self) -> None:
        degree = math.radians(1) * polygons.RADIUS_KM
        assert polygons.area_km2(square(0, 1)) == pytest.approx(degree**2, rel=1e-3)
        shrunk = degree**2 * math.cos(math.radians(29.5))
        assert polygons.area_km2(square(29, 1)) == pytest.approx(shrunk, rel=1e-3)

    def test_is_the_same_whichever_way_round(self) -> None:
        points = square(29, 0.01)
        assert polygons.area_km2(points) == pytest.approx(polygons.area_km2(points[::-1]))

    def test_of_a_line_is_nothing(self) -> None:
        line = [LatLng(latitude=29, longitude=115 + n / 10) for n in range(3)]
        assert polygons.area_km2(line) == pytest.approx(0, abs=1e-9)
