"""Comparisons of observation stations and anomalies of theirs (参数采集比对、站点异常, H-16)."""

from typing import Any

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, limits
from village.habitat.v1 import observation_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.observation_pb2 import Anomaly, StationComparison
from village.habitat.v1.station_pb2 import Station

LIMITS: dict[str, limits.Limits] = {"anomalies": {"report": 2, "check": 5}}
"""Working days; local values, not from a standard."""

_S = Anomaly.State
FLOW = flows.Flow(
    resource=Anomaly,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "report": flows.Action(
            target=_S.STATE_REPORTED, event=pb.AnomalyReported, limit=limits.after("report")
        ),
        "check": flows.Action(
            sources=frozenset({_S.STATE_REPORTED}), target=_S.STATE_CHECKED, event=pb.AnomalyChecked,
            needs=("evidence",), limit=limits.after("check"),
        ),
        "close": flows.Action(
            sources=frozenset({_S.STATE_CHECKED}), target=_S.STATE_CLOSED, event=pb.AnomalyClosed
        ),
        flows.ESCALATE: flows.Action(event=pb.AnomalyEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.AnomalyRecounted, keeps_clock=True),
    },
)  # fmt: skip


def _station(call: calls.Call, name: str, parent: str, field: str) -> Station:
    station = call.find(Station, name)
    if station is None or resources.region_in(name) != resources.region_in(parent):
        raise errors.Invalid(field, "is not a station of that region")
    return station


def create_station_comparison(
    request: pb.CreateStationComparisonRequest, call: calls.Call
) -> StationComparison:
    comparison, parent = request.station_comparison, request.parent
    station = _station(call, comparison.station, parent, "station_comparison.station")
    other = _station(call, comparison.reference_station, parent, "station_comparison.reference_station")
    if station.name == other.name or not comparison.reference_value:
        raise errors.Invalid("station_comparison.reference_value", "is another station's, and not 0")
    for each in (station, other):
        if comparison.factor not in {instrument.factor for instrument in each.instruments}:
            raise errors.Invalid("station_comparison.factor", f"is not measured by {each.name}")
    difference = abs(comparison.value - comparison.reference_value)
    comparison.division = station.division
    comparison.deviation_percent = difference / abs(comparison.reference_value) * 100
    comparison.passed = comparison.deviation_percent <= comparison.tolerance_percent
    wanted = request.station_comparison_id
    return call.create(comparison, parent=parent, event=pb.StationComparisonCreated, wanted=wanted)


def report_anomaly(request: pb.ReportAnomalyRequest, call: calls.Call) -> Anomaly:
    anomaly = request.anomaly
    anomaly.division = _station(call, anomaly.station, request.parent, "anomaly.station").division
    anomaly.report_time.CopyFrom(resources.stamp(call.now))
    policy = limits.in_force(call, request.parent, "anomalies")
    return call.file(anomaly, parent=request.parent, policy=policy, wanted=request.anomaly_id)


def check_anomaly(request: pb.CheckAnomalyRequest, call: calls.Call) -> Anomaly:
    anomaly = call.load(Anomaly, request.name)
    anomaly.checker, anomaly.cause = call.reference, request.cause
    anomaly.ClearField("evidence")
    anomaly.evidence.extend(request.evidence)
    return call.take(anomaly, "check", reason=request.reason)


def close_anomaly(request: pb.CloseAnomalyRequest, call: calls.Call) -> Anomaly:
    anomaly = call.load(Anomaly, request.name)
    anomaly.close_time.CopyFrom(resources.stamp(call.now))
    anomaly.open_hours = (call.now - resources.moment(anomaly.report_time)).total_seconds() / 3600
    return call.take(anomaly, "close", reason=request.reason)


FIGURES = (
    figures.Figure("H-16.1", "比对合格率", StationComparison, part="passed = true"),
    figures.Figure(
        "H-16.2", "平均比对偏差", StationComparison, part_sum="deviation_percent", unit="百分点"
    ),
    figures.Figure(
        "H-16.3", "异常处理时长", Anomaly, part_sum="open_hours", whole="close_time:*", unit="h"
    ),
)  # fmt: skip
RESOURCES = (StationComparison, Anomaly)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, StationComparison),
    **records.handlers(pb, Anomaly),
    "CreateStationComparison": create_station_comparison,
    "ReportAnomaly": report_anomaly,
    "CheckAnomaly": check_anomaly,
    "CloseAnomaly": close_anomaly,
}
