"""H-2 一图全面感知: what has a place is drawn, layer by layer, box by box, page by page; village points;
sheets of figures that somebody else checks before they are published."""

import time
from typing import Any

import orjson
import pytest

from mesh import errors
from services.habitat import one_map
from tests.county import County
from tests.habitat.people import DIVISION, HERE, PARENT, refusal, with_province
from tests.habitat.test_h07_toilets import toilet
from tests.habitat.test_h11_sources import source, station
from tests.habitat.test_h15_eco_units import unit
from tests.loop import execute, file, rows
from village.habitat.v1 import one_map_pb2 as pb


def drawn(county: County, who: str = "county", **fields: Any) -> dict[str, Any]:
    found = county.call(who, pb.DrawMapRequest(parent=PARENT, **fields))
    assert found.content_type == "application/geo+json"
    told: dict[str, Any] = orjson.loads(found.data)
    return told


def layers(told: dict[str, Any]) -> list[str]:
    return [feature["properties"]["layer"] for feature in told["features"]]


def point(county: County, n: int, **fields: Any) -> pb.VillagePoint:
    wanted = {
        "title": f"湾里{n}组",
        "division": DIVISION,
        "location": HERE,
        "connected": bool(n % 2),
        **fields,
    }
    request = pb.CreateVillagePointRequest(
        parent=PARENT, village_point=wanted, village_point_id=f"{DIVISION}{n:03d}"
    )
    made: pb.VillagePoint = county.call("town", request)
    return made


class TestMap:
    def test_draws_what_has_a_place_with_its_state(self, county: County) -> None:
        toilet(county)
        made = source(county)
        station(county, subject=made.name)
        file(county)
        told = drawn(county)
        assert told["type"] == "FeatureCollection"
        assert layers(told) == ["reports", "stations", "toilets", "waterSources"]
        (found,) = drawn(county, layers=["toilets"])["features"]
        assert found["geometry"] == {"type": "Point", "coordinates": [115.1, 29.26]}
        assert found["properties"] == {
            "layer": "toilets", "title": "北岸公厕", "state": "GOOD", "division": DIVISION,
        }  # fmt: skip

    def test_keeps_to_box_division_and_time(self, county: County) -> None:
        toilet(county)
        toilet(county, location={"latitude": 29.5, "longitude": 115.3}, title="远处公厕")
        titles = [f["properties"]["title"] for f in drawn(county, box=[115.2, 29.4, 115.4, 29.6])["features"]]
        assert titles == ["远处公厕"]
        assert layers(drawn(county, division="360423101")) == []
        assert len(layers(drawn(county, division=DIVISION))) == 2
        file(county)
        later = {"seconds": int(county.now.timestamp()) + 60}
        assert "reports" not in layers(drawn(county, start_time=later))
        assert "reports" in layers(drawn(county, end_time=later))

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"box": [1, 2, 3]}, "box"),
            ({"box": [116, 29, 115, 30]}, "box"),
            ({"layers": ["none"]}, "layers[0]"),
        ],
    )
    def test_refuses_what_it_cannot_draw(self, county: County, fields: dict[str, Any], field: str) -> None:
        with pytest.raises(errors.Invalid) as refused:
            drawn(county, **fields)
        assert refused.value.violations[0][0] == field

    def test_comes_page_by_page_across_layers(self, county: County) -> None:
        for n in range(5):
            toilet(county, title=f"公厕{n}")
            point(county, n)
        seen, token = [], ""
        while not seen or token:
            told = drawn(county, page_size=3, page_token=token)
            assert len(told["features"]) <= 3
            seen += [f["id"] for f in told["features"]]
            token = told["next_page_token"]
        assert len(seen) == len(set(seen)) == 10
        with pytest.raises(errors.Invalid, match="page_token"):
            drawn(county, page_token="x")

    def test_shows_residents_what_is_public_and_sources_only_about_where(self, county: County) -> None:
        toilet(county)
        source(county)
        station(county)
        told = drawn(county, "resident")
        assert layers(told) == ["toilets", "waterSources"]
        by_layer = {f["properties"]["layer"]: f["geometry"]["coordinates"] for f in told["features"]}
        assert by_layer["waterSources"] == [115.1, 29.26]
        execute(
            county, 'UPDATE water_sources SET location = \'{"latitude": 29.2634, "longitude": 115.1049}\''
        )
        told = drawn(county, "resident", layers=["waterSources"])
        assert told["features"][0]["geometry"]["coordinates"] == [115.1, 29.26]
        told = drawn(county, "county", layers=["waterSources"])
        assert told["features"][0]["geometry"]["coordinates"] == [115.1049, 29.2634]

    def test_draws_an_area_whole_wherever_a_box_meets_it(self, county: County) -> None:
        unit(with_province(county))
        (found,) = drawn(county, layers=["ecoUnits"])["features"]
        (ring,) = found["geometry"]["coordinates"]
        assert found["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        longitude, latitude = ring[0]
        near = [longitude - 0.001, latitude - 0.001, longitude + 0.001, latitude + 0.001]
        assert layers(drawn(county, layers=["ecoUnits"], box=near)) == ["ecoUnits"]
        assert layers(drawn(county, layers=["ecoUnits"], box=[80.0, 40.0, 81.0, 41.0])) == []

    def test_shows_a_township_its_own(self, county: County) -> None:
        toilet(county)
        assert layers(drawn(county, "other_town")) == []
        assert layers(drawn(county, "town")) == ["toilets"]

    def test_gives_gcj_02_at_the_edge_only(self, county: County) -> None:
        toilet(county)
        (found,) = drawn(county, crs=pb.CRS_GCJ02)["features"]
        assert found["geometry"]["coordinates"] != [115.1, 29.26]
        assert drawn(county)["features"][0]["geometry"]["coordinates"] == [115.1, 29.26]

    def test_of_twenty_thousand_features_is_two_pages_in_about_a_second(self, county: County) -> None:
        """The figure is `bench`'s; this is that nothing grows beyond all measure."""
        point(county, 1)
        columns = [c.name for c in county.store.codec(pb.VillagePoint).table.columns if c.name != "name"]
        listed = ", ".join(columns)
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) "
        execute(
            county,
            f"{numbers} INSERT INTO village_points (name, {listed}) "
            f"SELECT '{PARENT}/villagePoints/n-' || i, {listed} FROM n, village_points"
            if county.store.sqlite
            else f"INSERT INTO village_points (name, {listed}) "
            f"SELECT '{PARENT}/villagePoints/n-' || i, {listed} "
            "FROM village_points, generate_series(1, 19999) AS i",
        )
        assert rows(county, "SELECT count(*) FROM village_points") == [(20_000,)]
        begun = time.monotonic()
        told = drawn(county)
        ids = [feature["id"] for feature in told["features"]]
        told = drawn(county, page_token=told["next_page_token"])
        ids += [feature["id"] for feature in told["features"]]
        assert (len(ids), len(set(ids)), told["next_page_token"]) == (20_000, 20_000, "")
        assert time.monotonic() - begun < 15


def test_gcj_02_is_what_public_maps_use() -> None:
    longitude, latitude = one_map.gcj02(121.5272106, 31.1774276)
    assert (round(longitude, 6), round(latitude, 6)) == (121.531542, 31.175304)
    assert one_map.gcj02(2.35, 48.85) == (2.35, 48.85)


class TestSheet:
    def test_is_checked_by_somebody_else_and_published(self, county: County) -> None:
        point(county, 1)
        point(county, 2)
        request = pb.GenerateFigureSheetRequest(
            parent=PARENT, figure_sheet={"title": "三月月报", "ids": ["H-2"]}
        )
        made = county.call("county", request)
        assert [(f.id, f.numerator, f.denominator) for f in made.figures] == [("H-2.1", 1, 2)]
        assert refusal(county, "county", pb.CheckFigureSheetRequest(name=made.name)) == "FORBIDDEN"
        assert (
            refusal(county, "county_2", pb.PublishFigureSheetRequest(name=made.name)) == "ACTION_NOT_ALLOWED"
        )
        county.call("county_2", pb.CheckFigureSheetRequest(name=made.name))
        point(county, 3)
        published = county.call("county", pb.PublishFigureSheetRequest(name=made.name))
        assert published.state == pb.FigureSheet.STATE_PUBLISHED
        assert published.figures[0].denominator == 2
        assert refusal(county, "county", pb.DiscardFigureSheetRequest(name=made.name)) == "ACTION_NOT_ALLOWED"

    def test_is_discarded_before_it_is_published(self, county: County) -> None:
        asked = pb.GenerateFigureSheetRequest(
            parent=PARENT, figure_sheet={"title": "四月月报", "ids": ["H-2"]}
        )
        name = county.call("county", asked).name
        discarded = county.call("county", pb.DiscardFigureSheetRequest(name=name, reason="口径有误"))
        assert discarded.state == pb.FigureSheet.STATE_DISCARDED
        assert refusal(county, "county_2", pb.CheckFigureSheetRequest(name=name)) == "ACTION_NOT_ALLOWED"
