"""The habitat service: the list of what it consists of."""

import pathlib
from typing import Any

from mesh import calls, records, runtime
from services.habitat import (
    agro_points,
    analysis,
    appearance,
    black_soil,
    collectors,
    devices,
    eco_units,
    exceedances,
    extension,
    farm_waste,
    figures,
    hazards,
    limits,
    machinery,
    observation,
    one_map,
    policies,
    readings,
    report_flow,
    reports,
    samples,
    schemes,
    series_tables,
    sewage,
    sorties,
    standards,
    stations,
    supervision,
    toilets,
    upkeep,
    waste,
    zones,
)

AREAS = (
    *(reports, policies, limits, toilets, standards, stations, readings, sewage, one_map),
    *(devices, waste, supervision, analysis, appearance, upkeep),
    *(schemes, samples, exceedances, eco_units, zones, hazards, sorties, machinery),
    *(black_soil, agro_points, farm_waste, observation, extension),
)
"""One file each: its records, its life cycles, its handlers, its limits."""


def seed(call: calls.Call) -> None:
    """What the domain cannot work without."""
    policies.seed(call)
    standards.seed(call)
    sewage.seed(call)
    exceedances.seed(call)
    for area in AREAS:
        limits.seed(call, getattr(area, "LIMITS", {}))


_forgetting = appearance.Forgetting()


def tick(process: Any, hosted: Any) -> None:
    """What is done about once a second."""
    readings.tick(process, hosted)
    machinery.tick(process, hosted)
    _forgetting(process, hosted)


HANDLERS = {name: handler for area in AREAS for name, handler in area.HANDLERS.items()}
LIFECYCLES = (report_flow.FLOW, *(flow for area in AREAS for flow in getattr(area, "FLOWS", ())))

SERVICE = runtime.Service(
    domain="habitat",
    package="village.habitat.v1",
    resources=tuple(cls for area in AREAS for cls in area.RESOURCES),
    lifecycles=LIFECYCLES,
    series=series_tables.add_to,
    ticks=tick,
    feeds=collectors.FEEDS,
    reacts=tuple(reaction for area in AREAS for reaction in getattr(area, "REACTIONS", ())),
    handlers={
        **HANDLERS,
        **records.histories(LIFECYCLES, HANDLERS),
        **figures.handlers(AREAS),
        **limits.handlers(AREAS),
        **one_map.handlers(AREAS),
        **one_map.sheet_handlers(AREAS),
    },
    seed=seed,
    migrations=pathlib.Path(__file__).parent / "migrations",
)
