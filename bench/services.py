"""Calls a second of the service itself, without Envoy, to those of the floor: get, list and file, from one
caller and from eight, on each kind of database."""

import pathlib
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from bench import figures, load, places

PAIRS = 5
CALLERS = (1, 8)
KINDS = {
    "get": "GetReport, with contact and photos",
    "list": "ListReports, a page of 50",
    "file": "FileReport",
}
NAMES = [f"{call}.{kind}.{n}" for kind in places.KINDS for call in KINDS for n in CALLERS]
"""As in `get.sqlite.8`: from eight callers."""


def measure(names: Sequence[str], folder: pathlib.Path, server: sa.URL | None) -> Iterator[figures.Figure]:
    """Those of NAMES that are named."""
    for kind in places.KINDS:
        wanted = [name for name in names if name.split(".")[1] == kind]
        if not wanted:
            continue
        at = places.place(kind, folder, server)
        with places.servers(at) as (ours, floor):
            for name in wanted:
                yield _figure(name, places.calls(at, ours), places.calls(at, floor))


def _figure(name: str, ours: dict[str, load.Call], floor: dict[str, load.Call]) -> figures.Figure:
    call, kind, callers = name.split(".")
    value, least, ratio, spread = figures.pairs(
        lambda: load.rate(ours[call], int(callers)), lambda: load.rate(floor[call], int(callers)), PAIRS
    )
    about = {
        "call": KINDS[call], "database": places.DURABILITY[kind], "callers": int(callers), "connections": 1,
        "client": load.NOTE, "runs": f"{PAIRS} pairs of {load.RUN_S} s in turn", "ratios": spread,
        "broker": "away", "load average": figures.load_average(),
    }  # fmt: skip
    return figures.Figure(name, round(value, 1), "calls/s", round(least, 1), round(ratio, 3), about)
