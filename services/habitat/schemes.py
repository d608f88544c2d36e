"""Monitoring schemes by village type (监测方案, H-12): proposed, approved, in force, replaced."""

from collections.abc import Iterable

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import figures, tables
from village.habitat.v1 import scheme_pb2 as pb
from village.habitat.v1.scheme_pb2 import MonitoringScheme, VillageType

Parameter = MonitoringScheme.Parameter
_S = MonitoringScheme.State
FLOW = flows.Flow(
    resource=MonitoringScheme,
    actions={
        "propose": flows.Action(target=_S.STATE_DRAFT, event=pb.MonitoringSchemeProposed),
        "approve": flows.Action(
            sources=frozenset({_S.STATE_DRAFT}), target=_S.STATE_APPROVED, event=pb.MonitoringSchemeApproved
        ),
        "enforce": flows.Action(
            sources=frozenset({_S.STATE_APPROVED}), target=_S.STATE_IN_FORCE,
            event=pb.MonitoringSchemeEnforced,
        ),
        "retire": flows.Action(
            sources=frozenset({_S.STATE_DRAFT, _S.STATE_APPROVED, _S.STATE_IN_FORCE}),
            target=_S.STATE_RETIRED, event=pb.MonitoringSchemeRetired,
        ),
    },
)  # fmt: skip


def resulting(base: Iterable[Parameter], changes: Iterable[Parameter]) -> list[Parameter]:
    """What is measured when `changes` are made to `base`, by factor. Invalid for one that does not fit."""
    found = {parameter.factor: parameter for parameter in base}
    for n, stated in enumerate(changes):
        field, added = f"monitoring_scheme.parameters[{n}]", stated.change == MonitoringScheme.CHANGE_ADDED
        if added == (stated.factor in found):
            raise errors.Invalid(
                f"{field}.change", f"{stated.factor} is {'' if added else 'not '}in the base"
            )
        if stated.change == MonitoringScheme.CHANGE_CUT:
            del found[stated.factor]
            continue
        if not stated.times_per_year or not stated.method:
            raise errors.Invalid(field, "states how often and by which method it is measured")
        found[stated.factor] = stated
    return [found[factor] for factor in sorted(found)]


def _base(scheme: MonitoringScheme, parent: str, call: calls.Call) -> Iterable[Parameter]:
    """The parameters that a scheme changes."""
    if not scheme.base:
        return ()
    base = call.find(MonitoringScheme, scheme.base)
    outer, inner = resources.region_in(scheme.base), resources.region_in(parent)
    if base is None or not regions.contains(outer, inner) or base.state == _S.STATE_DRAFT:
        raise errors.Invalid("monitoring_scheme.base", "is no approved scheme of the region or one above it")
    return base.resulting


def _type_of(scheme: MonitoringScheme, parent: str, call: calls.Call) -> VillageType:
    found = call.find(VillageType, scheme.village_type)
    if found is None or resources.region_in(scheme.village_type) != resources.region_in(parent):
        raise errors.Invalid("monitoring_scheme.village_type", "is not a village type of that region")
    return found


def propose_monitoring_scheme(
    request: pb.ProposeMonitoringSchemeRequest, call: calls.Call
) -> MonitoringScheme:
    scheme = request.monitoring_scheme
    village_type = _type_of(scheme, request.parent, call)
    scheme.resulting.extend(resulting(_base(scheme, request.parent, call), scheme.parameters))
    village_type.editions += 1
    scheme.edition, scheme.proposer = village_type.editions, call.reference
    call.save(village_type, pb.VillageTypeChanged)
    return call.file(scheme, parent=request.parent, wanted=request.monitoring_scheme_id)


def approve_monitoring_scheme(
    request: pb.ApproveMonitoringSchemeRequest, call: calls.Call
) -> MonitoringScheme:
    scheme = call.load(MonitoringScheme, request.name)
    scheme.approve_time.CopyFrom(resources.stamp(call.now))
    return call.take(scheme, "approve", reason=request.reason)


def enforce_monitoring_scheme(
    request: pb.EnforceMonitoringSchemeRequest, call: calls.Call
) -> MonitoringScheme:
    scheme = call.load(MonitoringScheme, request.name)
    village_type = _type_of(scheme, request.name, call)
    if village_type.scheme:
        _retire(call.find(MonitoringScheme, village_type.scheme), call, f"replaced by {scheme.name}")
    scheme.enforce_time.CopyFrom(resources.stamp(call.now))
    village_type.scheme = scheme.name
    call.save(village_type, pb.VillageTypeChanged)
    return call.take(scheme, "enforce", reason=request.reason)


def retire_monitoring_scheme(request: pb.RetireMonitoringSchemeRequest, call: calls.Call) -> MonitoringScheme:
    scheme = call.load(MonitoringScheme, request.name)
    village_type = _type_of(scheme, request.name, call)
    if village_type.scheme == scheme.name:
        village_type.scheme = ""
        call.save(village_type, pb.VillageTypeChanged)
    return _retire(scheme, call, request.reason)


def _retire(scheme: MonitoringScheme | None, call: calls.Call, reason: str) -> MonitoringScheme:
    assert scheme is not None
    scheme.retire_time.CopyFrom(resources.stamp(call.now))
    return call.take(scheme, "retire", reason=reason)


def compute_scheme_coverage(
    request: pb.ComputeSchemeCoverageRequest, call: calls.Call
) -> pb.ComputeSchemeCoverageResponse:
    part, whole = tables.sources_with_scheme(call, request.parent)
    return pb.ComputeSchemeCoverageResponse(sources=figures.rate(part, whole))


FIGURES = (figures.Figure("H-12.1", "有施行方案的村庄类型", VillageType, part="scheme:*"),)
RESOURCES = (VillageType, MonitoringScheme)
FLOWS = (FLOW,)
HANDLERS = {
    **records.handlers(pb, VillageType, created=pb.VillageTypeCreated, changed=pb.VillageTypeChanged),
    **records.handlers(pb, MonitoringScheme),
    "ProposeMonitoringScheme": propose_monitoring_scheme,
    "ApproveMonitoringScheme": approve_monitoring_scheme,
    "EnforceMonitoringScheme": enforce_monitoring_scheme,
    "RetireMonitoringScheme": retire_monitoring_scheme,
    "ComputeSchemeCoverage": compute_scheme_coverage,
}
