"""The one net of agro-ecological monitoring: points, samples, advice, training (农业监测“一张网”, H-17)."""

from typing import Any

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, one_map
from village.habitat.v1 import agro_point_pb2 as pb
from village.habitat.v1.agro_point_pb2 import AgroPoint, AgroSample, FarmingAdvice, TrainingSession
from village.habitat.v1.station_pb2 import Station

_S = TrainingSession.State
FLOW = flows.Flow(
    resource=TrainingSession,
    actions={
        "plan": flows.Action(target=_S.STATE_PLANNED, event=pb.TrainingSessionPlanned),
        "hold": flows.Action(
            sources=frozenset({_S.STATE_PLANNED}), target=_S.STATE_HELD, event=pb.TrainingSessionHeld
        ),
        "evaluate": flows.Action(
            sources=frozenset({_S.STATE_HELD}), target=_S.STATE_EVALUATED,
            event=pb.TrainingSessionEvaluated,
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_PLANNED}), target=_S.STATE_CANCELLED,
            event=pb.TrainingSessionCancelled,
        ),
    },
)  # fmt: skip


def check_point(point: AgroPoint, call: calls.Call) -> None:
    here = resources.region_in(point.station) == resources.region_in(point.name)
    if point.station and not (here and call.find(Station, point.station)):
        raise errors.Invalid("agro_point.station", "is not a station of that region")


def create_agro_sample(request: pb.CreateAgroSampleRequest, call: calls.Call) -> AgroSample:
    sample = request.agro_sample
    point = call.find(AgroPoint, sample.agro_point)
    if point is None or resources.region_in(sample.agro_point) != resources.region_in(request.parent):
        raise errors.Invalid("agro_sample.agro_point", "is not a point of that region")
    if resources.moment(sample.take_time) > call.now:
        raise errors.Invalid("agro_sample.take_time", "lies in the future")
    for n, found in enumerate(sample.findings):
        if bool(found.limit) != bool(found.basis):
            raise errors.Invalid(f"agro_sample.findings[{n}].basis", "goes with a limit, and only with one")
    sample.division = point.division
    sample.limited = any(found.limit for found in sample.findings)
    sample.exceeding_factors[:] = [f.factor for f in sample.findings if f.limit and f.value > f.limit]
    sample.exceeding = bool(sample.exceeding_factors)
    return call.create(
        sample, parent=request.parent, event=pb.AgroSampleCreated, wanted=request.agro_sample_id
    )


def create_farming_advice(request: pb.CreateFarmingAdviceRequest, call: calls.Call) -> FarmingAdvice:
    advice, wanted = request.farming_advice, request.farming_advice_id
    advice.issue_time.CopyFrom(resources.stamp(call.now))
    return call.create(advice, parent=request.parent, event=pb.FarmingAdviceCreated, wanted=wanted)


def plan_training_session(request: pb.PlanTrainingSessionRequest, call: calls.Call) -> TrainingSession:
    return call.file(request.training_session, parent=request.parent, wanted=request.training_session_id)


def hold_training_session(request: pb.HoldTrainingSessionRequest, call: calls.Call) -> TrainingSession:
    session = call.load(TrainingSession, request.name)
    session.attended = request.attended
    session.hold_time.CopyFrom(resources.stamp(call.now))
    return call.take(session, "hold", reason=request.reason)


def evaluate_training_session(
    request: pb.EvaluateTrainingSessionRequest, call: calls.Call
) -> TrainingSession:
    session = call.load(TrainingSession, request.name)
    session.score = request.score
    return call.take(session, "evaluate", reason=request.reason)


def cancel_training_session(request: pb.CancelTrainingSessionRequest, call: calls.Call) -> TrainingSession:
    return call.take(call.load(TrainingSession, request.name), "cancel", reason=request.reason)


FIGURES = (
    figures.Figure(
        "H-17.1", "超标率", AgroSample, part="exceeding = true", whole="limited = true"
    ),
    figures.Figure("H-17.2", "点位在用率", AgroPoint, part="active = true"),
)  # fmt: skip
LAYERS = (one_map.Layer(AgroPoint, "农业生态监测点"),)
RESOURCES = (AgroPoint, AgroSample, FarmingAdvice, TrainingSession)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(
        pb, AgroPoint, created=pb.AgroPointCreated, changed=pb.AgroPointChanged, check=check_point
    ),
    **records.handlers(pb, AgroSample),
    **records.handlers(pb, FarmingAdvice, changed=pb.FarmingAdviceChanged),
    **records.handlers(pb, TrainingSession),
    "CreateAgroSample": create_agro_sample,
    "CreateFarmingAdvice": create_farming_advice,
    "PlanTrainingSession": plan_training_session,
    "HoldTrainingSession": hold_training_session,
    "EvaluateTrainingSession": evaluate_training_session,
    "CancelTrainingSession": cancel_training_session,
}
