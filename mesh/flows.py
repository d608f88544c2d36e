"""Lifecycles (状态机) as data: which action leads from which state to which, under which guards, within
which limit; and what happens by itself when a limit is missed. Pure: messages in, messages out.

A resource with a flow has the fields `state`, `due_time`, `due_provisional`, `overdue`, `late_time`,
`escalation_level`, `handling_level` and `policy`."""

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from mesh import errors, resources
from mesh.calendar import Calendar
from mesh.identity import Caller
from village.type.v1 import level_pb2, step_pb2

ESCALATE, RECOUNT = "escalate", "recount"
"""The actions that the plumbing takes by itself."""


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What guards may ask for besides the resource."""

    caller: Caller
    now: datetime.datetime
    calendar: Calendar
    policy: Any


Guard = Callable[[Any, Circumstances], None]
Limit = Callable[[Any, Any], int]
"""(policy, resource) → working days within which the next step is due."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """One verb. Without `target` it is an overlay: the state stays. Without `limit` nothing is due
    afterwards, unless `keeps_clock`."""

    event: type[Message]
    sources: frozenset[int] = frozenset()
    target: int | None = None
    limit: Limit | None = None
    keeps_clock: bool = False
    guards: tuple[Guard, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """A resource's lifecycle. `actions` by name, the first one creating the resource; `escalate_after`
    gives the working days between two escalations."""

    resource: type[Message]
    policy: type[Message]
    actions: dict[str, Action]
    escalate_after: Callable[[Any], int]

    def open_states(self) -> frozenset[int]:
        """States that some action leads out of."""
        return frozenset().union(*(a.sources for a in self.actions.values() if a.target is not None))

    def state_name(self, state: int) -> str:
        enum = self.resource.DESCRIPTOR.fields_by_name["state"].enum_type
        return str(enum.values_by_number[state].name).removeprefix("STATE_")


@dataclasses.dataclass(frozen=True)
class Taken:
    """What an action did: the step for the history, the event class, and when to ring next."""

    step: step_pb2.Step
    event: type[Message]
    alarm: datetime.datetime | None


def take(
    flow: Flow, name: str, message: Any, around: Circumstances, alarm: datetime.datetime | None
) -> Taken:
    """Takes an action on `message`, in place. ActionNotAllowed, or what a guard refuses with; `alarm` is
    when the resource would have rung next."""
    action, before = flow.actions[name], message.state
    if action.sources and before not in action.sources:
        possible = [n for n, a in flow.actions.items() if before in a.sources and a.target is not None]
        raise errors.ActionNotAllowed(
            name=message.name,
            action=name,
            state=flow.state_name(before),
            possible=", ".join(possible) or "none",
        )
    for guard in action.guards:
        guard(message, around)
    if message.HasField("due_time") and not message.HasField("late_time"):
        due = resources.moment(message.due_time)
        if around.now > due:
            message.late_time.CopyFrom(resources.stamp(due))
    if action.target is not None:
        message.state = action.target
    if action.limit is not None:
        due, provisional = around.calendar.due(around.now, action.limit(around.policy, message))
        message.due_time.CopyFrom(resources.stamp(due))
        message.due_provisional, message.overdue, alarm = provisional, False, due
    elif not action.keeps_clock:
        message.ClearField("due_time")
        message.due_provisional, message.overdue, alarm = False, False, None
    return Taken(_step(flow, name, message, before, around), action.event, alarm)


def ring(flow: Flow, message: Any, around: Circumstances, alarm: datetime.datetime) -> Taken:
    """What happens when a limit is missed: the resource is overdue and raised one level. `alarm` is when
    it was to ring, from which the next time is counted: it stands at a midnight, which ends a day."""
    due = resources.moment(message.due_time)
    message.overdue = True
    if not message.HasField("late_time"):
        message.late_time.CopyFrom(resources.stamp(due))
    at = max(message.handling_level or level_pb2.LEVEL_TOWNSHIP, message.escalation_level)
    message.escalation_level = min(at + 1, level_pb2.LEVEL_PROVINCE)
    again = None
    if message.escalation_level < level_pb2.LEVEL_PROVINCE:
        ended = alarm - datetime.timedelta(microseconds=1)
        again, _ = around.calendar.due(ended, flow.escalate_after(around.policy))
    step = _step(flow, ESCALATE, message, message.state, around)
    step.level = message.escalation_level
    return Taken(step, flow.actions[ESCALATE].event, again)


def recount(
    flow: Flow,
    message: Any,
    history: list[step_pb2.Step],
    around: Circumstances,
    alarm: datetime.datetime | None,
) -> Taken | None:
    """Counts a due time again on a calendar that has changed, from the step that set it; None when it
    stays as it is."""
    for step in reversed(history):
        action = flow.actions[step.action]
        if action.limit is None:
            continue
        started = resources.moment(step.time)
        due, provisional = around.calendar.due(started, action.limit(around.policy, message))
        before = resources.moment(message.due_time)
        if provisional == message.due_provisional and due == before:
            return None
        message.due_time.CopyFrom(resources.stamp(due))
        message.due_provisional = provisional
        if message.overdue and due >= around.now:
            message.overdue = False
            if resources.moment(message.late_time) == before:  # else an earlier limit was missed
                message.ClearField("late_time")
        taken = _step(flow, RECOUNT, message, message.state, around)
        return Taken(taken, flow.actions[RECOUNT].event, alarm if message.overdue else due)
    return None


def _step(flow: Flow, name: str, message: Any, before: int, around: Circumstances) -> step_pb2.Step:
    step = step_pb2.Step(
        action=name,
        from_state=flow.state_name(before) if before else "",
        to_state=flow.state_name(message.state),
        time=resources.stamp(around.now),
    )
    if message.HasField("due_time"):
        step.due_time.CopyFrom(message.due_time)
    return step
