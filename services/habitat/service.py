"""The habitat service: the list of what it consists of."""

import pathlib

from mesh import calls, runtime
from services.habitat import (
    analysis,
    appearance,
    devices,
    limits,
    policies,
    report_flow,
    reports,
    supervision,
    toilets,
    upkeep,
    waste,
)

AREAS = (reports, policies, limits, toilets, devices, waste, supervision, analysis, appearance, upkeep)
"""One file each: its records, its life cycles, its handlers, its limits."""


def seed(call: calls.Call) -> None:
    """What the domain cannot work without."""
    policies.seed(call)
    for area in AREAS:
        limits.seed(call, getattr(area, "LIMITS", {}))


SERVICE = runtime.Service(
    domain="habitat",
    package="village.habitat.v1",
    resources=tuple(cls for area in AREAS for cls in area.RESOURCES),
    lifecycles=(report_flow.FLOW, *(flow for area in AREAS for flow in getattr(area, "FLOWS", ()))),
    handlers={name: handler for area in AREAS for name, handler in area.HANDLERS.items()},
    reacts=tuple(reaction for area in AREAS for reaction in getattr(area, "REACTIONS", ())),
    carries=appearance.Forgetting(),
    seed=seed,
    migrations=pathlib.Path(__file__).parent / "migrations",
)
