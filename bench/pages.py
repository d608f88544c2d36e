"""A page of reports of one state, ordered by due time, out of a million: milliseconds of a call in the
service, without a network, beside the same out of ten thousand."""

import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from bench import figures, places
from mesh import resources, rpc
from tests.county import REGION, County
from village.habitat.v1 import report_pb2 as pb

MANY, FEW = 1_000_000, 10_000
ROUNDS, PAGES = 40, 5
TOWNS = [f"360423{n}" for n in range(100, 120)]
SMALL = "360423200"
"""A township with a thousandth of the reports."""
STATES = ["REPORTED", "ACCEPTED", "ASSIGNED", "IN_PROGRESS", "CLOSED", "CLOSED", "CLOSED", "ASSESSED"]
WHO = {"county": REGION, "town": TOWNS[7], "small_town": SMALL}
NAMES = [f"page.{kind}.{who}" for kind in places.KINDS for who in WHO]


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    for kind in places.KINDS:
        wanted = [name for name in names if name.split(".")[1] == kind]
        if not wanted:
            continue
        counties = {}
        for count in (FEW, MANY):
            home = folder / f"pages-{kind}-{count}"
            home.mkdir()
            counties[count] = County(home, places.empty(kind, folder, server))
            _fill(counties[count], count)
        for name in wanted:
            yield _figure(name, counties)
        for county in counties.values():
            county.close()


def _fill(county: County, count: int) -> None:
    """Copies one report `count` times: names, townships, states and due times differ."""
    filing = pb.FileReportRequest(
        parent=f"regions/{REGION}",
        report={"category": 1, "description": "x", "division": f"{TOWNS[0]}201",
                "location": {"latitude": 29.26, "longitude": 115.1}},
    )  # fmt: skip
    name = county.call("village", filing, region=REGION).name
    codec, database = county.store.codec(pb.Report), county.store.database
    n = "n.n" if database.sqlite else "CAST(n.n AS bigint)"
    numbers = (
        f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) "
        if database.sqlite
        else f"WITH n AS (SELECT generate_series(1, {count}) AS n) "
    )
    scattered = f"({n} * 7919 % 1000003)"
    town = f"CASE WHEN {n} % 1000 = 0 THEN '{SMALL}' ELSE '360423' || (100 + {scattered} % 20) END"
    states = " ".join(f"WHEN {i} THEN '{state}'" for i, state in enumerate(STATES))
    if database.sqlite:
        due = f"strftime('%Y-%m-%dT%H:%M:%S', 1772400000 + {scattered}, 'unixepoch') || '.000000Z'"
        own = f"printf('%012x', {n})"
    else:
        due = f"to_timestamp(1772400000 + {scattered})"
        own = f"lpad(to_hex({n}), 12, '0')"
    chosen = {
        "name": f"'regions/{REGION}/reports/019cac46-0000-7000-8000-' || {own}",
        "township": town, "division": f"{town} || '201'", "description": "''", "reporter": "''",
        "state": f"CASE {scattered} / 20 % {len(STATES)} {states} END", "due_time": due, "alarm_time": "NULL",
    }  # fmt: skip
    columns = [c.name for c in codec.table.columns]
    asked = ", ".join(chosen.get(c, f"r.{c}") for c in columns)
    copy = (
        f"INSERT INTO reports ({', '.join(columns)}) {numbers}SELECT {asked} "
        f"FROM n, reports r WHERE r.name = '{name}'"
    )
    with database.engine.connect() as connection:
        connection.execute(sa.text("BEGIN"))
        if not database.sqlite:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        connection.execute(sa.text(copy))
        connection.execute(sa.text("COMMIT"))
        connection.execute(sa.text("ANALYZE" if database.sqlite else "VACUUM ANALYZE"))
        connection.commit()


def _median(county: County, who: str) -> float:
    """Milliseconds of a page, the median over pages one behind the other."""
    roles, claims = ("KA" if who == "county" else "TO"), {"region": WHO[who]}
    token = county.token("county", roles=[roles], **claims)
    path = county.contract.methods["ListReports"].path
    spent: list[float] = []
    for _ in range(ROUNDS):
        request = pb.ListReportsRequest(
            parent=f"regions/{REGION}", filter="state = ASSIGNED", order_by="due_time", page_size=50
        )
        for _ in range(PAGES):
            raw: Any = request.SerializeToString()
            begun = time.perf_counter()
            answer = county.chain.answer(rpc.Incoming(path, raw, {"authorization": f"Bearer {token}"}))
            spent.append((time.perf_counter() - begun) * 1000)
            page = pb.ListReportsResponse.FromString(answer)
            assert page.reports or who == "small_town"  # of ten thousand it has ten
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    return statistics.median(spent)


def _figure(name: str, counties: dict[int, County]) -> figures.Figure:
    _, kind, who = name.split(".")
    for county in counties.values():
        county.now = resources.utcnow()
        _median(county, who)  # warm
    value, least, ratio, spread = figures.pairs(
        lambda: _median(counties[MANY], who), lambda: _median(counties[FEW], who), 3
    )
    about = {
        "call": "ListReports of a state by due time, pages of 50 one behind the other, in process",
        "reports": f"{MANY:,} beside {FEW:,}", "townships": "20, and one of 0.1 %", "caller": who,
        "database": places.DURABILITY[kind], "runs": f"3 pairs of {ROUNDS} times {PAGES} pages",
        "ratios": spread, "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(name, round(value, 2), "ms", round(least, 2), round(ratio, 2), about)
