"""Farms and what becomes of their manure and straw (农田、养殖、废弃物处理利用, H-18)."""

from typing import Any

from mesh import calls, errors, records, regions, resources
from services.habitat import figures
from village.habitat.v1 import farm_waste_pb2 as pb
from village.habitat.v1.farm_waste_pb2 import Farm, ManureRecord, StrawPlot


def check_farm(farm: Farm, call: calls.Call) -> None:
    """A farm writes itself only."""
    if not regions.uscc_valid(farm.unit):
        raise errors.Invalid("farm.unit", "has a wrong check character (GB 32100-2015)")
    if _only_own(call) and farm.unit != call.caller.organisation:
        raise errors.Invalid("farm.unit", "is not the caller's organisation")


def _only_own(call: calls.Call) -> bool:
    """Whether the caller may call this only for what his organisation handles."""
    return not any(rule.roles & call.caller.roles for rule in call.method.rules if not rule.handling_unit)


def check_manure(record: ManureRecord, call: calls.Call) -> None:
    _same_farm(record, "manure_record", call)
    record.used_t = record.returned_t + record.biogas_t + record.composted_t + record.entrusted_t
    if record.used_t > record.produced_t:
        raise errors.Invalid("manure_record.produced_t", "is less than what was used")


def check_straw(plot: StrawPlot, call: calls.Call) -> None:
    _same_farm(plot, "straw_plot", call)
    plot.used_t = plot.fertiliser_t + plot.feed_t + plot.fuel_t + plot.substrate_t + plot.material_t
    if plot.used_t > plot.collectable_t:
        raise errors.Invalid("straw_plot.collectable_t", "is less than what was used")


def _same_farm(record: Any, field: str, call: calls.Call) -> None:
    farm = call.find(Farm, record.farm)
    if farm is None or farm.unit != record.farm_unit:
        raise errors.Invalid(f"{field}.farm", "stays what it was")


def _of_farm(record: Any, parent: str, field: str, call: calls.Call) -> None:
    """Takes over where the farm lies, which the caller may write of."""
    if resources.region_in(record.farm) != resources.region_in(parent):
        raise errors.Invalid(f"{field}.farm", "is not a farm of that region")
    farm = call.load(Farm, record.farm)
    record.farm_unit, record.division = farm.unit, farm.division


def create_manure_record(request: pb.CreateManureRecordRequest, call: calls.Call) -> ManureRecord:
    record, wanted = request.manure_record, request.manure_record_id
    _of_farm(record, request.parent, "manure_record", call)
    check_manure(record, call)
    return call.create(record, parent=request.parent, event=pb.ManureRecordCreated, wanted=wanted)


def create_straw_plot(request: pb.CreateStrawPlotRequest, call: calls.Call) -> StrawPlot:
    plot, wanted = request.straw_plot, request.straw_plot_id
    _of_farm(plot, request.parent, "straw_plot", call)
    check_straw(plot, call)
    return call.create(plot, parent=request.parent, event=pb.StrawPlotCreated, wanted=wanted)


FIGURES = (
    figures.Figure(
        "H-18.1", "粪污综合利用率", ManureRecord, part_sum="used_t", whole_sum="produced_t"
    ),
    figures.Figure("H-18.2", "秸秆综合利用率", StrawPlot, part_sum="used_t", whole_sum="collectable_t"),
)  # fmt: skip
RESOURCES = (Farm, ManureRecord, StrawPlot)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, Farm, created=pb.FarmCreated, changed=pb.FarmChanged, check=check_farm),
    **records.handlers(pb, ManureRecord, changed=pb.ManureRecordChanged, check=check_manure),
    **records.handlers(pb, StrawPlot, changed=pb.StrawPlotChanged, check=check_straw),
    "CreateManureRecord": create_manure_record,
    "CreateStrawPlot": create_straw_plot,
}
