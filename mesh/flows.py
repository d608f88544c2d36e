"""Lifecycles (状态机) as data: which action leads from which state to which, under which guards, within
which limit; what stops, moves and resumes the clock; and what happens by itself when a limit is missed.
Pure: messages in, messages out.

A resource with a flow has the fields of `FIELDS`, and `stop_time` if anything stops its clock."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from mesh import contract, errors, resources
from mesh.calendar import Calendar
from mesh.identity import Caller
from village.type.v1 import level_pb2, step_pb2

ESCALATE, RECOUNT = "escalate", "recount"
"""The actions that the plumbing takes by itself."""
FIELDS = (
    *("state", "due_time", "due_provisional", "overdue", "late_time"),
    *("escalation_level", "handling_level", "policy"),
)


class CauseNotListed(errors.Refused):
    """The clock stops for listed causes only."""

    en = "the clock of {name} does not stop for {cause!r}; it stops for: {causes}"
    zh = "该事由不能中止计时"


class EvidenceMissing(errors.Refused):
    """The action needs something to show for it."""

    en = "{action} needs {field}"
    zh = "缺少佐证材料"


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What guards may ask for besides the resource."""

    caller: Caller
    now: datetime.datetime
    calendar: Calendar
    policy: Any
    history: Callable[[], Sequence[step_pb2.Step]] = tuple
    """The resource's steps so far."""


Guard = Callable[[Any, Circumstances], None]
Limit = Callable[[Any, Any], int | datetime.timedelta]
"""(policy, resource) → within what the next step is due: working days, or natural time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
    """One verb. Without `target` it is an overlay: the state stays."""

    event: type[Message]
    sources: frozenset[int] = frozenset()
    """States it is possible in; any when empty."""
    target: int | None = None
    limit: Limit | None = None
    """What is due after it. Without one nothing is, unless `keeps_clock`."""
    keeps_clock: bool = False
    guards: tuple[Guard, ...] = ()
    needs: tuple[str, ...] = ()
    """Fields of the resource that must hold something."""
    extends: Limit | None = None
    """By how much it moves the present limit."""
    stops: frozenset[str] = frozenset()
    """The causes for which it stops the clock, until an action that `resumes`."""
    resumes: bool = False

    @property
    def on_clock(self) -> bool:
        """Whether it moves the present limit."""
        return bool(self.extends or self.stops or self.resumes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """A resource's lifecycle. `actions` by name, the first one creating the resource; `escalate_after`
    gives the working days between two escalations. One without limits has no policy, and of `FIELDS` its
    resource needs the state alone."""

    resource: type[Message]
    actions: dict[str, Action]
    policy: type[Message] | None = None
    escalate_after: Callable[[Any], int] = lambda _: 1

    def __post_init__(self) -> None:
        """Stops the start: a field that is missing would show only when the first limit is missed."""
        name, has = self.resource.DESCRIPTOR.full_name, self.resource.DESCRIPTOR.fields_by_name
        stopping = {"stop_time"} if any(a.stops for a in self.actions.values()) else set()
        limited = any(a.limit is not None or a.extends is not None for a in self.actions.values())
        if limited != (self.policy is not None):
            raise contract.BadContract(f"villagemesh: {name} has limits without a policy, or none and one")
        if lacking := sorted((({*FIELDS} if limited else {"state"}) | stopping) - set(has)):
            raise contract.BadContract(f"villagemesh: {name} has a life cycle and lacks {lacking}")
        if limited and (lacking := sorted({ESCALATE, RECOUNT} - set(self.actions))):
            raise contract.BadContract(f"villagemesh: the life cycle of {name} lacks the actions {lacking}")

    def open_states(self) -> frozenset[int]:
        """States that some action leads out of."""
        return frozenset().union(*(a.sources for a in self.actions.values() if a.target is not None))

    def state_name(self, state: int) -> str:
        enum = self.resource.DESCRIPTOR.fields_by_name["state"].enum_type
        return str(enum.values_by_number[state].name).removeprefix("STATE_")

    def possible(self, message: Any) -> list[str]:
        """The actions that lead on from where a resource stands."""
        return [
            name
            for name, action in self.actions.items()
            if message.state in action.sources and (action.target is not None or action.resumes)
            if not _stopped(message) or action.resumes or self._ends(action)
        ]

    def _ends(self, action: Action) -> bool:
        return action.target is not None and action.target not in self.open_states()


@dataclasses.dataclass(frozen=True)
class Taken:
    """What an action did: the step for the history, the event class, and when to ring next."""

    step: step_pb2.Step
    event: type[Message]
    alarm: datetime.datetime | None


def take(
    flow: Flow,
    name: str,
    message: Any,
    around: Circumstances,
    alarm: datetime.datetime | None,
    *,
    cause: str = "",
) -> Taken:
    """Takes an action on `message`, in place. ActionNotAllowed, or what a guard refuses with; `alarm` is
    when the resource would have rung next, `cause` why the clock is stopped."""
    action, before = flow.actions[name], message.state
    _check(flow, name, message, around, cause)
    timed = flow.policy is not None
    late = timed and message.HasField("due_time") and not message.HasField("late_time")
    if late and not _stopped(message):
        due = resources.moment(message.due_time)
        if around.now > due:
            message.late_time.CopyFrom(resources.stamp(due))
    if action.target is not None:
        message.state = action.target
    step = step_pb2.Step(
        action=name,
        from_state=flow.state_name(before) if before else "",
        to_state=flow.state_name(message.state),
        time=resources.stamp(around.now),
        cause=cause,
    )
    if action.stops:
        message.stop_time.CopyFrom(step.time)
        alarm = None
    elif action.resumes or (action.target is not None and _stopped(message)):
        message.ClearField("stop_time")
    if action.limit is not None or action.extends is not None or action.resumes:
        alarm = _set_due(flow, message, around, [*(around.history() if action.on_clock else ()), step])
    elif timed and not action.keeps_clock and not action.stops:
        message.ClearField("due_time")
        message.due_provisional, message.overdue, alarm = False, False, None
    return Taken(_due(step, message), action.event, alarm)


def _check(flow: Flow, name: str, message: Any, around: Circumstances, cause: str) -> None:
    action = flow.actions[name]
    wrong = bool(action.sources) and message.state not in action.sources
    held = _stopped(message) and action.target is not None and not flow._ends(action)
    if wrong or held or (action.resumes and not _stopped(message)) or (action.stops and _stopped(message)):
        raise errors.ActionNotAllowed(
            name=message.name,
            action=name,
            state=flow.state_name(message.state) + (", its clock stopped" if _stopped(message) else ""),
            possible=", ".join(flow.possible(message)) or "none",
        )
    if action.stops and cause not in action.stops:
        raise CauseNotListed(name=message.name, cause=cause, causes=", ".join(sorted(action.stops)))
    for field in action.needs:
        if not getattr(message, field):
            raise EvidenceMissing(name=message.name, action=name, field=field)
    for guard in action.guards:
        guard(message, around)


def _stopped(message: Any) -> bool:
    return "stop_time" in message.DESCRIPTOR.fields_by_name and bool(message.HasField("stop_time"))


def _set_due(
    flow: Flow, message: Any, around: Circumstances, steps: Sequence[step_pb2.Step]
) -> datetime.datetime | None:
    """Sets what is due by the steps; when to ring next, which is not while the clock stands."""
    due, provisional = due_by(flow, message, steps, around)
    message.due_time.CopyFrom(resources.stamp(due))
    message.due_provisional, message.overdue = provisional, False
    return None if _stopped(message) else due


def due_by(
    flow: Flow, message: Any, steps: Sequence[step_pb2.Step], around: Circumstances
) -> tuple[datetime.datetime, bool]:
    """When the next step is due by what the history says: the last limit that was set, moved by extensions
    and by the time its clock stood; and whether that counts days of a year not announced yet."""
    start = max(i for i, step in enumerate(steps) if flow.actions[step.action].limit is not None)
    limit = flow.actions[steps[start].action].limit
    assert limit is not None
    span = limit(around.policy, message)
    due, provisional = around.calendar.due(resources.moment(steps[start].time), span)
    stopped: datetime.datetime | None = None
    for step in steps[start + 1 :]:
        action, when = flow.actions[step.action], resources.moment(step.time)
        more: int | datetime.timedelta = 0
        if action.stops:
            stopped = when
        elif action.resumes and stopped is not None:
            in_days = isinstance(span, int)
            more = around.calendar.working_days(stopped, when) if in_days else when - stopped
        elif action.extends is not None:
            more = action.extends(around.policy, message)
        if more:
            # a due time of working days stands at the midnight that ends one
            due, more_provisional = around.calendar.due(due - _MOMENT if isinstance(more, int) else due, more)
            provisional = provisional or more_provisional
    return due, provisional


_MOMENT = datetime.timedelta(microseconds=1)


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
        again, _ = around.calendar.due(alarm - _MOMENT, flow.escalate_after(around.policy))
    step = _own_step(flow, ESCALATE, message, around)
    step.level = message.escalation_level
    return Taken(_due(step, message), flow.actions[ESCALATE].event, again)


def recount(flow: Flow, message: Any, around: Circumstances, alarm: datetime.datetime | None) -> Taken | None:
    """Counts a due time again on a calendar that has changed; None when it stays as it is."""
    before, provisional = resources.moment(message.due_time), message.due_provisional
    due, message.due_provisional = due_by(flow, message, around.history(), around)
    if message.due_provisional == provisional and due == before:
        return None
    message.due_time.CopyFrom(resources.stamp(due))
    if message.overdue and due >= around.now:
        message.overdue = False
        if resources.moment(message.late_time) == before:  # else an earlier limit was missed
            message.ClearField("late_time")
    step = _due(_own_step(flow, RECOUNT, message, around), message)
    rings = alarm if message.overdue or _stopped(message) else due
    return Taken(step, flow.actions[RECOUNT].event, rings)


def _own_step(flow: Flow, name: str, message: Any, around: Circumstances) -> step_pb2.Step:
    """A step of the plumbing itself, which leaves the state."""
    state = flow.state_name(message.state)
    return step_pb2.Step(action=name, from_state=state, to_state=state, time=resources.stamp(around.now))


def _due(step: step_pb2.Step, message: Any) -> step_pb2.Step:
    if "due_time" in message.DESCRIPTOR.fields_by_name and message.HasField("due_time"):
        step.due_time.CopyFrom(message.due_time)
    return step


def diagram(flow: Flow, who: Callable[[str], str] = lambda _: "") -> str:
    """The flow as a Mermaid state diagram. `who`: action → who may take it, for the labels."""
    lines = ["stateDiagram-v2"]
    overlays = []
    for name, action in flow.actions.items():
        label = f"{name} {who(name)}".strip()
        if action.target is None:
            overlays.append(label)
            continue
        sources = [flow.state_name(s) for s in sorted(action.sources)] or ["[*]"]
        lines += [f"    {source} --> {flow.state_name(action.target)}: {label}" for source in sources]
    ends = {a.target for a in flow.actions.values() if a.target is not None} - flow.open_states()
    lines += [f"    {flow.state_name(state)} --> [*]" for state in sorted(ends)]
    lines.append(f"    %% in place: {', '.join(overlays)}")
    return "\n".join(lines) + "\n"
