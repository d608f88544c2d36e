"""The one map of a county: milliseconds until 20,000 features are drawn, all pages, in process; beside the
same SQL and the same GeoJSON by hand, on the same rows, on the driver."""

import json
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from google.api import httpbody_pb2

from bench import figures, places
from mesh import resources, rpc
from tests.county import REGION, County
from village.habitat.v1 import one_map_pb2 as pb

FEATURES, PAGE = 20_000, 5_000
PAIRS = 7
NAMES = [f"map.{kind}" for kind in places.KINDS]
PARENT = f"regions/{REGION}"


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    for kind in places.KINDS:
        if f"map.{kind}" not in names:
            continue
        home = folder / f"map-{kind}"
        home.mkdir()
        url = places.empty(kind, folder, server)
        county = County(home, url)
        _fill(county)
        county.now = resources.utcnow()
        yield _figure(kind, county, _by_hand(kind, url))
        county.close()


def _fill(county: County) -> None:
    """Copies one village point: names, villages and places differ."""
    at = {"latitude": 29.0, "longitude": 115.0}
    point = {"title": "一号自然村", "division": f"{REGION}100201", "location": at, "connected": True,
             "households": 30}  # fmt: skip
    request = pb.CreateVillagePointRequest(parent=PARENT, village_point=point)
    name = county.call("county", request).name
    codec, database = county.store.codec(pb.VillagePoint), county.store.database
    sqlite = database.sqlite
    count = FEATURES - 1
    numbers = (
        f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) "
        if sqlite
        else f"WITH n AS (SELECT generate_series(1, {count}) AS n) "
    )
    place = "'{\"latitude\": ' || (28.9 + n.n % 600 / 1000.0) || ', \"longitude\": ' || "
    place += "(114.5 + n.n % 1000 / 1000.0) || '}'"
    town = "'360423' || (100 + n.n % 20)"
    chosen = {
        "name": f"'{PARENT}/villagePoints/p-' || (100000 + n.n)", "township": town,
        "division": f"{town} || '201'", "location": place if sqlite else f"CAST({place} AS jsonb)",
    }  # fmt: skip
    columns = [c.name for c in codec.table.columns]
    asked = ", ".join(chosen.get(c, f"r.{c}") for c in columns)
    table = codec.table.name
    copy = (
        f"INSERT INTO {table} ({', '.join(columns)}) {numbers}SELECT {asked} "
        f"FROM n, {table} r WHERE r.name = '{name}'"
    )
    with database.engine.connect() as connection:
        connection.execute(sa.text("BEGIN"))
        connection.execute(sa.text(copy.replace(':"', '\\:"')))
        connection.execute(sa.text("COMMIT"))
        connection.execute(sa.text("ANALYZE" if sqlite else "VACUUM ANALYZE"))
        connection.commit()


def _ours(county: County) -> float:
    """Milliseconds of all pages."""
    path = county.contract.methods["DrawMap"].path
    headers = {"authorization": f"Bearer {county.token('county')}"}
    request = pb.DrawMapRequest(parent=PARENT, layers=["villagePoints"], page_size=PAGE)
    begun, seen = time.perf_counter(), 0
    while True:
        raw: Any = county.chain.answer(rpc.Incoming(path, request.SerializeToString(), headers))
        told = httpbody_pb2.HttpBody.FromString(raw).data
        seen += told.count(b'"Feature"')
        request.page_token = _token(told)
        if not request.page_token:
            break
    spent = (time.perf_counter() - begun) * 1000
    assert seen == FEATURES
    return spent


def _token(told: bytes) -> str:
    """The token behind the features, without reading them."""
    tail = told[told.rindex(b'"next_page_token"') :]
    return str(json.loads(b"{" + tail)["next_page_token"])


def _by_hand(kind: str, url: str) -> Callable[[], float]:
    """The same as somebody writes it for this map alone: no token, no permission, no other layer."""
    columns = "name, division, {}, {}, title, connected"
    where = "WHERE region = {0} AND name > {0} ORDER BY name LIMIT {0}"
    if kind == "sqlite":
        connection: Any = sqlite3.connect(url.removeprefix("sqlite:///").replace("{domain}", "habitat"))
        sides = [f"json_extract(location, '$.{side}')" for side in ("longitude", "latitude")]
        asked = f"SELECT {columns.format(*sides)} FROM village_points {where.format('?')}"
    else:
        connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        sides = [f"(location->>'{side}')::float8" for side in ("longitude", "latitude")]
        asked = f"SELECT {columns.format(*sides)} FROM village_points {where.format('%s')}"

    def draw() -> float:
        begun, seen, after = time.perf_counter(), 0, ""
        while True:
            rows = connection.execute(asked, (REGION, after, PAGE)).fetchall()
            if not rows:
                break
            features = [
                {
                    "type": "Feature", "id": name,
                    "geometry": {"type": "Point", "coordinates": [round(east, 7), round(north, 7)]},
                    "properties": {"layer": "villagePoints", "title": title, "state": state,
                                   "division": division},
                }
                for name, division, east, north, title, state in rows
            ]  # fmt: skip
            told = orjson.dumps({"type": "FeatureCollection", "features": features})
            seen += told.count(b'"Feature"')
            after = rows[-1][0]
        assert seen == FEATURES
        return (time.perf_counter() - begun) * 1000

    return draw


def _figure(kind: str, county: County, by_hand: Callable[[], float]) -> figures.Figure:
    _ours(county)
    by_hand()  # warm
    value, least, ratio, spread = figures.pairs(lambda: _ours(county), by_hand, PAIRS)
    about = {
        "call": f"DrawMap, {FEATURES:,} village points in pages of {PAGE:,}, in process",
        "floor": "the same SQL and GeoJSON by hand", "database": places.DURABILITY[kind],
        "runs": f"{PAIRS} pairs", "ratios": spread, "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(f"map.{kind}", round(value, 1), "ms", round(least, 1), round(ratio, 2), about)
