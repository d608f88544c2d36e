"""The habitat service: the list of what it consists of."""

import pathlib

from mesh import runtime
from services.habitat import policies, report_flow, reports, tables

SERVICE = runtime.Service(
    domain="habitat",
    package="village.habitat.v1",
    resources=tables.RESOURCES,
    lifecycles=(report_flow.FLOW,),
    handlers={**reports.HANDLERS, **policies.HANDLERS},
    seed=policies.seed,
    migrations=pathlib.Path(__file__).parent / "migrations",
)
