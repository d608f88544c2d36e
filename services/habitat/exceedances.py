"""Exceedances of what is measured, what is done about them and what users are told (超标、供水处置、用户告知;
SM-4). Readings move them too: `suspect` and `normal` are what telemetry calls with each valid value."""

import datetime
from typing import Any

from mesh import calls, contract, errors, flows, records, resources
from services.habitat import figures, limits, tables
from village.habitat.v1 import exceedance_pb2 as pb
from village.habitat.v1.exceedance_pb2 import Exceedance, ExceedanceRule, SupplyAction, UserNotice
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.sample_pb2 import LabResult, Sample
from village.habitat.v1.station_pb2 import Station, WaterSource

_hours = datetime.timedelta
LIMITS: dict[str, limits.Limits] = {
    "exceedances": {
        "suspect": _hours(hours=24), "confirm": _hours(hours=2), "warn": _hours(hours=4),
        "act": _hours(hours=72), "recover": _hours(hours=48),
    },
}  # fmt: skip
"""Natural time; local values, not from a standard."""


class ResultDoesNotConfirm(errors.Refused):
    en = "{result} does not confirm {name}: {why}"
    zh = "该检测结果不能确认超标"


class NotBackToNormal(errors.Refused):
    en = "{name} ends after {wanted} normal values one after the other; there are {count}"
    zh = "连续正常次数不足，不能认定恢复"


_S = Exceedance.State
_OPEN = frozenset({_S.STATE_SUSPECTED, _S.STATE_CONFIRMED, _S.STATE_WARNED, _S.STATE_ACTION})
FLOW = flows.Flow(
    resource=Exceedance,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "suspect": flows.Action(
            target=_S.STATE_SUSPECTED, event=pb.ExceedanceSuspected, limit=limits.after("suspect")
        ),
        "count": flows.Action(sources=_OPEN, event=pb.ExceedanceCounted, keeps_clock=True),
        "ease": flows.Action(sources=_OPEN, event=pb.ExceedanceEased, keeps_clock=True),
        "confirm": flows.Action(
            sources=frozenset({_S.STATE_SUSPECTED}), target=_S.STATE_CONFIRMED, event=pb.ExceedanceConfirmed,
            limit=limits.after("confirm"),
        ),
        "dismiss": flows.Action(
            sources=frozenset({_S.STATE_SUSPECTED}), target=_S.STATE_DISMISSED, event=pb.ExceedanceDismissed
        ),
        "warn": flows.Action(
            sources=frozenset({_S.STATE_CONFIRMED}), target=_S.STATE_WARNED, event=pb.ExceedanceWarned,
            needs=("user_notice",), limit=limits.after("warn"),
        ),
        "act": flows.Action(
            sources=frozenset({_S.STATE_WARNED}), target=_S.STATE_ACTION, event=pb.ExceedanceActed,
            needs=("supply_actions",), limit=limits.after("act"),
        ),
        "recover": flows.Action(
            sources=frozenset({_S.STATE_ACTION}), target=_S.STATE_RECOVERED, event=pb.ExceedanceRecovered,
            limit=limits.after("recover"),
        ),
        "close": flows.Action(
            sources=frozenset({_S.STATE_RECOVERED}), target=_S.STATE_CLOSED, event=pb.ExceedanceClosed
        ),
        flows.ESCALATE: flows.Action(event=pb.ExceedanceEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.ExceedanceRecounted, keeps_clock=True),
    },
)  # fmt: skip

# what telemetry calls, in the call that keeps the value


def suspect(
    call: calls.Call,
    *,
    station: Station,
    factor: str,
    value: float,
    limit: float,
    side: int,
    standard: str,
    time: datetime.datetime,
) -> Exceedance:
    """Says that a valid value lies beyond a limit. The first one raises an exceedance, as many one after the
    other as its rule says confirm it. A value no later than the last changes nothing."""
    found = _open(call, station.name, factor)
    if found is not None:
        return _count(call.as_system(contract.internal("suspect")), found, value, time)
    stated = Exceedance(
        station=station.name, factor=factor, value=value, limit=limit, side=side,  # type: ignore[arg-type]
        standard=standard, first_time=resources.stamp(time),
    )  # fmt: skip
    return _raise(call.as_system(contract.internal("suspect")), stated, station, "")


def normal(call: calls.Call, *, station: str, factor: str, value: float, time: datetime.datetime) -> None:
    """Says that a valid value keeps its limit: a suspicion is dismissed, and one that something is done about
    recovers when as many came one after the other as its rule says. Nothing without an open exceedance."""
    found = _open(call, station, factor)
    if found is None or not _later(found, time):
        return
    system = call.as_system(contract.internal("normal"))
    _note(found, value, time)
    if found.state == _S.STATE_SUSPECTED:
        _end(found, system, "dismiss", "the value after it keeps the limit")
        return
    found.normal_count += 1
    enough = found.normal_count >= _rule(call, found).recover_count
    if enough and found.state == _S.STATE_ACTION:
        _recover(found, system, "")
    else:
        system.take(found, "ease")


def beyond(value: float, limit: float, side: int) -> bool:
    """Whether a value lies beyond a limit."""
    return value > limit if side == Exceedance.SIDE_ABOVE else value < limit


def is_open(opened: Any, station: str, factor: str) -> bool:
    """Whether an exceedance of a factor at a station is open."""
    return tables.is_open(opened, Exceedance, _key(station, factor))


def _key(station: str, factor: str) -> str:
    return f"{station} {factor}"


def _open(call: calls.Call, station: str, factor: str) -> Exceedance | None:
    names = tables.matching(call, Exceedance, station, open_key=_key(station, factor))
    return call.find(Exceedance, names[0]) if names else None


def _rule(call: calls.Call, exceedance: Exceedance) -> ExceedanceRule:
    found = call.find(ExceedanceRule, exceedance.rule)
    assert found is not None
    return found


def _later(exceedance: Exceedance, time: datetime.datetime) -> bool:
    return time > resources.moment(exceedance.last_time)


def _note(exceedance: Exceedance, value: float, time: datetime.datetime) -> None:
    exceedance.last_value = value
    exceedance.last_time.CopyFrom(resources.stamp(time))


def _raise(call: calls.Call, exceedance: Exceedance, station: Station, wanted: str) -> Exceedance:
    time = resources.moment(exceedance.first_time)
    exceedance.division, exceedance.open_key = station.division, _key(station.name, exceedance.factor)
    exceedance.rule = tables.issued_for(call, ExceedanceRule, station.name, exceedance.factor, time)
    exceedance.over_count, exceedance.worst_value = 1, exceedance.value
    _note(exceedance, exceedance.value, time)
    parent = f"regions/{resources.region_in(station.name)}"
    call.file(exceedance, parent=parent, policy=limits.in_force(call, parent, "exceedances"), wanted=wanted)
    if exceedance.over_count >= _rule(call, exceedance).confirm_count:
        _confirm(exceedance, call, Exceedance.PROOF_CONSECUTIVE, "")
    return exceedance


def _count(call: calls.Call, found: Exceedance, value: float, time: datetime.datetime) -> Exceedance:
    if not _later(found, time):
        return found
    _note(found, value, time)
    found.over_count = found.over_count + 1 if not found.normal_count else 1
    found.normal_count = 0
    if beyond(value, found.worst_value, found.side):
        found.worst_value = value
    enough = found.over_count >= _rule(call, found).confirm_count
    if found.state == _S.STATE_SUSPECTED and enough:
        return _confirm(found, call, Exceedance.PROOF_CONSECUTIVE, "")
    return call.take(found, "count")


def _confirm(exceedance: Exceedance, call: calls.Call, proof: int, reason: str) -> Exceedance:
    exceedance.confirmed_by = proof  # type: ignore[assignment]
    exceedance.confirm_time.CopyFrom(resources.stamp(call.now))
    return call.take(exceedance, "confirm", reason=reason)


def _recover(exceedance: Exceedance, call: calls.Call, reason: str) -> Exceedance:
    exceedance.recover_time.CopyFrom(resources.stamp(call.now))
    return _end(exceedance, call, "recover", reason)


def _end(exceedance: Exceedance, call: calls.Call, action: str, reason: str) -> Exceedance:
    """From here on another value beyond the limit raises an exceedance of its own."""
    exceedance.ClearField("open_key")
    return call.take(exceedance, action, reason=reason)


# handlers


def suspect_exceedance(request: pb.SuspectExceedanceRequest, call: calls.Call) -> Exceedance:
    stated = request.exceedance
    station = call.find(Station, stated.station)
    if station is None or resources.region_in(stated.station) != resources.region_in(request.parent):
        raise errors.Invalid("exceedance.station", "is not a station of that region")
    if not beyond(stated.value, stated.limit, stated.side):
        raise errors.Invalid("exceedance.value", "does not lie beyond the limit")
    if resources.moment(stated.first_time) > call.now:
        raise errors.Invalid("exceedance.first_time", "lies in the future")
    return _raise(call, stated, station, request.exceedance_id)


def confirm_exceedance(request: pb.ConfirmExceedanceRequest, call: calls.Call) -> Exceedance:
    exceedance = call.load(Exceedance, request.name)
    result = call.find(LabResult, request.lab_result)
    if result is None or resources.region_in(result.name) != resources.region_in(request.name):
        raise errors.Invalid("lab_result", "is not a laboratory result of that region")
    if why := _weak(result, exceedance, call):
        raise ResultDoesNotConfirm(name=exceedance.name, result=result.name, why=why)
    call.rely_on(result)
    exceedance.lab_result = result.name
    return _confirm(exceedance, call, Exceedance.PROOF_LABORATORY, request.reason)


def _weak(result: LabResult, exceedance: Exceedance, call: calls.Call) -> str:
    """Why a result does not confirm an exceedance; empty when it does."""
    sample = call.find(Sample, result.sample)
    station = call.find(Station, exceedance.station)
    assert sample is not None and station is not None  # noqa: PT018
    if result.factor != exceedance.factor:
        return f"it is of {result.factor}"
    if exceedance.name != sample.exceedance and station.subject != sample.source:
        return "its sample is of other water"
    if sample.state not in (Sample.STATE_REPORTED, Sample.STATE_PUBLISHED):
        return "its laboratory has not reported it"
    if result.suspect:
        return "a quality control that failed puts it in doubt"
    if resources.moment(sample.take_time) < resources.moment(exceedance.first_time):
        return "its sample was taken before"
    if result.below_lod or not beyond(result.value, exceedance.limit, exceedance.side):
        return "it does not lie beyond the limit"
    return ""


def dismiss_exceedance(request: pb.DismissExceedanceRequest, call: calls.Call) -> Exceedance:
    return _end(call.load(Exceedance, request.name), call, "dismiss", request.reason)


def warn_exceedance(request: pb.WarnExceedanceRequest, call: calls.Call) -> Exceedance:
    exceedance = call.load(Exceedance, request.name)
    exceedance.user_notice = _notice(call, request.user_notice, request.name, "user_notice")
    exceedance.warn_time.CopyFrom(resources.stamp(call.now))
    return call.take(exceedance, "warn", reason=request.reason)


def act_exceedance(request: pb.ActExceedanceRequest, call: calls.Call) -> Exceedance:
    exceedance = call.load(Exceedance, request.name)
    for n, name in enumerate(request.supply_actions):
        action = call.find(SupplyAction, name)
        if action is None or action.exceedance != exceedance.name:
            raise errors.Invalid(f"supply_actions[{n}]", "does not answer this exceedance")
    exceedance.supply_actions[:] = request.supply_actions
    exceedance.act_time.CopyFrom(resources.stamp(call.now))
    began = resources.moment(exceedance.first_time)
    exceedance.action_hours = (call.now - began).total_seconds() / 3600
    return call.take(exceedance, "act", reason=request.reason)


def recover_exceedance(request: pb.RecoverExceedanceRequest, call: calls.Call) -> Exceedance:
    exceedance = call.load(Exceedance, request.name)
    wanted = _rule(call, exceedance).recover_count
    if exceedance.normal_count < wanted:
        raise NotBackToNormal(name=exceedance.name, wanted=str(wanted), count=str(exceedance.normal_count))
    return _recover(exceedance, call, request.reason)


def close_exceedance(request: pb.CloseExceedanceRequest, call: calls.Call) -> Exceedance:
    return call.take(call.load(Exceedance, request.name), "close", reason=request.reason)


def _notice(call: calls.Call, name: str, beside: str, field: str) -> str:
    if resources.region_in(name) != resources.region_in(beside) or call.find(UserNotice, name) is None:
        raise errors.Invalid(field, "is not a notice of that region")
    return name


def check_action(action: SupplyAction, call: calls.Call) -> None:
    """It answers an exceedance of the region, and says what its kind wants said."""
    exceedance = call.find(Exceedance, action.exceedance)
    if exceedance is None or resources.region_in(action.exceedance) != resources.region_in(action.name):
        raise errors.Invalid("supply_action.exceedance", "is not an exceedance of that region")
    action.division = exceedance.division
    switched = action.kind == SupplyAction.KIND_SWITCH_SOURCE
    if switched != bool(action.switched_to):
        raise errors.Invalid(
            "supply_action.switched_to", "is stated when the source is switched, and only then"
        )
    if switched and call.find(WaterSource, action.switched_to) is None:
        raise errors.Invalid("supply_action.switched_to", "is not a water source that is known here")
    if action.kind == SupplyAction.KIND_NOTIFY or action.user_notice:
        _notice(call, action.user_notice, action.name, "supply_action.user_notice")
    if action.HasField("end_time") and resources.moment(action.end_time) < resources.moment(
        action.start_time
    ):
        raise errors.Invalid("supply_action.end_time", "lies before its start")


def create_supply_action(request: pb.CreateSupplyActionRequest, call: calls.Call) -> SupplyAction:
    action = request.supply_action
    exceedance = call.find(Exceedance, action.exceedance)
    action.division = exceedance.division if exceedance else f"{resources.region_in(request.parent)}000000"
    made = call.create(
        action, parent=request.parent, event=pb.SupplyActionCreated, wanted=request.supply_action_id
    )
    check_action(made, call)
    return made


def create_user_notice(request: pb.CreateUserNoticeRequest, call: calls.Call) -> UserNotice:
    request.user_notice.publish_time.CopyFrom(resources.stamp(call.now))
    return call.create(
        request.user_notice, parent=request.parent, event=pb.UserNoticeCreated, wanted=request.user_notice_id
    )


def seed(call: calls.Call) -> None:
    """The platform's default, until the region issues its own."""
    if call.find(ExceedanceRule, f"regions/{call.region}/exceedanceRules/default") is None:
        rule = ExceedanceRule(
            effective_time=resources.stamp(resources.EPOCH), confirm_count=3, recover_count=3,
            basis="platform default, not from a standard; a region issues its own",
            confidence=ExceedanceRule.CONFIDENCE_LOW,
        )  # fmt: skip
        call.create(rule, parent=f"regions/{call.region}", event=pb.ExceedanceRuleCreated, wanted="default")


FIGURES = (
    figures.Figure(
        "H-13.2", "超标到处置时长", Exceedance, part_sum="action_hours", whole="act_time:*", unit="h"
    ),
    figures.Figure("H-13.3", "超标确认率", Exceedance, part="confirm_time:*"),
)  # fmt: skip
RESOURCES = (Exceedance, SupplyAction, UserNotice, ExceedanceRule)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, Exceedance),
    **records.handlers(pb, SupplyAction, changed=pb.SupplyActionChanged, check=check_action),
    **records.handlers(pb, UserNotice, changed=pb.UserNoticeChanged),
    **records.handlers(pb, ExceedanceRule, created=pb.ExceedanceRuleCreated),
    "SuspectExceedance": suspect_exceedance,
    "ConfirmExceedance": confirm_exceedance,
    "DismissExceedance": dismiss_exceedance,
    "WarnExceedance": warn_exceedance,
    "ActExceedance": act_exceedance,
    "RecoverExceedance": recover_exceedance,
    "CloseExceedance": close_exceedance,
    "CreateSupplyAction": create_supply_action,
    "CreateUserNotice": create_user_notice,
}
