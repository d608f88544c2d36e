"""Institutions, stations and demonstration farms of the extension chain (院士工作站、科技联盟、科技小院、农技
推广站、示范户), and tasks that departments share (统筹部门监管); H-23."""

from typing import Any

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import figures, limits, one_map
from village.habitat.v1 import extension_pb2 as pb
from village.habitat.v1.extension_pb2 import (
    DemonstrationHousehold,
    ExtensionStation,
    Institution,
    JointTask,
)
from village.habitat.v1.farm_waste_pb2 import Farm
from village.habitat.v1.limit_policy_pb2 import LimitPolicy

LIMITS: dict[str, limits.Limits] = {"jointTasks": {"open": 20}}
"""Working days; local values, not from a standard."""


class NoPartOfTheCaller(errors.Refused):
    en = "{name} has no part that {unit} has still to do"
    zh = "该任务没有本部门待办事项"


class PartsStillOpen(errors.Refused):
    en = "{name} is finished when every department has done its part; still open: {units}"
    zh = "仍有部门未办结"


_S = JointTask.State
FLOW = flows.Flow(
    resource=JointTask,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "open": flows.Action(target=_S.STATE_OPEN, event=pb.JointTaskOpened, limit=limits.after("open")),
        "complete": flows.Action(
            sources=frozenset({_S.STATE_OPEN}), event=pb.JointTaskCompleted, keeps_clock=True
        ),
        "finish": flows.Action(
            sources=frozenset({_S.STATE_OPEN}), target=_S.STATE_FINISHED, event=pb.JointTaskFinished
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_OPEN}), target=_S.STATE_CANCELLED, event=pb.JointTaskCancelled
        ),
        flows.ESCALATE: flows.Action(event=pb.JointTaskEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.JointTaskRecounted, keeps_clock=True),
    },
)  # fmt: skip


def check_institution(institution: Institution, _call: calls.Call) -> None:
    if not regions.uscc_valid(institution.unit):
        raise errors.Invalid("institution.unit", "has a wrong check character (GB 32100-2015)")


def check_station(station: ExtensionStation, call: calls.Call) -> None:
    for n, name in enumerate(station.institutions):
        if resources.region_in(name) != resources.region_in(station.name) or not call.find(Institution, name):
            raise errors.Invalid(f"extension_station.institutions[{n}]", "is not one of that region")


def check_household(household: DemonstrationHousehold, call: calls.Call) -> None:
    here = resources.region_in(household.name)
    for field, cls in (("extension_station", ExtensionStation), ("farm", Farm)):
        name = getattr(household, field)
        if resources.region_in(name) != here or not call.find(cls, name):
            raise errors.Invalid(f"demonstration_household.{field}", "is not one of that region")


def create_demonstration_household(
    request: pb.CreateDemonstrationHouseholdRequest, call: calls.Call
) -> DemonstrationHousehold:
    household, wanted = request.demonstration_household, request.demonstration_household_id
    farm = call.find(Farm, household.farm)
    household.division = farm.division if farm else f"{resources.region_in(request.parent)}000000"
    made = call.create(
        household, parent=request.parent, event=pb.DemonstrationHouseholdCreated, wanted=wanted
    )
    check_household(made, call)
    return made


def open_joint_task(request: pb.OpenJointTaskRequest, call: calls.Call) -> JointTask:
    task = request.joint_task
    for n, part in enumerate(task.parts):
        if part.unit in {earlier.unit for earlier in task.parts[:n]} or not regions.uscc_valid(part.unit):
            raise errors.Invalid(
                f"joint_task.parts[{n}].unit", "has a part before, or a wrong check character"
            )
        part.ClearField("outcome")
        part.ClearField("done_time")
    task.open_parts = len(task.parts)
    policy = limits.in_force(call, request.parent, "jointTasks")
    return call.file(task, parent=request.parent, policy=policy, wanted=request.joint_task_id)


def complete_joint_task(request: pb.CompleteJointTaskRequest, call: calls.Call) -> JointTask:
    task = call.load(JointTask, request.name)
    unit = call.caller.organisation
    part = next((p for p in task.parts if p.unit == unit and not p.outcome), None)
    if part is None:
        raise NoPartOfTheCaller(name=task.name, unit=unit or "nobody")
    part.outcome = request.outcome
    part.done_time.CopyFrom(resources.stamp(call.now))
    task.open_parts = sum(not p.outcome for p in task.parts)
    return call.take(task, "complete", reason=request.reason)


def finish_joint_task(request: pb.FinishJointTaskRequest, call: calls.Call) -> JointTask:
    task = call.load(JointTask, request.name)
    if still := [part.unit for part in task.parts if not part.outcome]:
        raise PartsStillOpen(name=task.name, units=", ".join(still))
    task.finish_time.CopyFrom(resources.stamp(call.now))
    return call.take(task, "finish", reason=request.reason)


def cancel_joint_task(request: pb.CancelJointTaskRequest, call: calls.Call) -> JointTask:
    return call.take(call.load(JointTask, request.name), "cancel", reason=request.reason)


FIGURES = (
    figures.Figure(
        "H-23.1", "联合任务完成率", JointTask, part="state = FINISHED", whole="NOT state = CANCELLED"
    ),
    figures.Figure("H-23.2", "推广站点在用率", ExtensionStation, part="active = true"),
)  # fmt: skip
LAYERS = (one_map.Layer(ExtensionStation, "科技服务站点", state="kind"),)
RESOURCES = (Institution, ExtensionStation, DemonstrationHousehold, JointTask)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(
        pb, Institution, created=pb.InstitutionCreated, changed=pb.InstitutionChanged, check=check_institution
    ),
    **records.handlers(
        pb, ExtensionStation, created=pb.ExtensionStationCreated, changed=pb.ExtensionStationChanged,
        check=check_station,
    ),
    **records.handlers(
        pb, DemonstrationHousehold, changed=pb.DemonstrationHouseholdChanged, check=check_household
    ),
    **records.handlers(pb, JointTask),
    "CreateDemonstrationHousehold": create_demonstration_household,
    "OpenJointTask": open_joint_task,
    "CompleteJointTask": complete_joint_task,
    "FinishJointTask": finish_joint_task,
    "CancelJointTask": cancel_joint_task,
}  # fmt: skip
