"""Farm machines, their terminals and jobs (“互联网+农机”, H-22). Positions count while a job runs: others are
dropped before anything stores them (V-8), and those that were kept go after 30 days."""

import datetime
from collections.abc import Sequence
from typing import Any

from mesh import calls, errors, flows, records, regions, resources
from mesh.store import Store
from services.habitat import figures, tables, tracks
from village.habitat.v1 import machinery_pb2 as pb
from village.habitat.v1.machinery_pb2 import JobRule, JobTrack, Machine, MachineryJob, Terminal

KEPT = datetime.timedelta(days=30)
"""How long points are kept at most (V-8)."""
LOOK = datetime.timedelta(hours=1)
"""How often it is looked for points that have to go; by as much they go earlier."""
BATCH = 200


class NoRuleInForce(errors.Refused):
    en = "no rule is in force for jobs of the kind {kind}"
    zh = "该类作业没有施行中的核定规则"


class TrackIsGone(errors.Refused):
    en = "{name} has no track to compute its area from"
    zh = "没有可用于测算面积的作业轨迹"


class AreaNotShown(errors.Refused):
    en = "{name} claims {claimed} mu and its track shows {worked}"
    zh = "核定面积超出测算或申报面积"


class RatioTooLow(errors.Refused):
    en = "{name} worked {ratio}% of what it claims; the rule wants {least}%"
    zh = "测算面积占申报面积的比例低于规则要求"


_S = MachineryJob.State
FLOW = flows.Flow(
    resource=MachineryJob,
    actions={
        "start": flows.Action(target=_S.STATE_STARTED, event=pb.MachineryJobStarted),
        "end": flows.Action(
            sources=frozenset({_S.STATE_STARTED}), target=_S.STATE_ENDED, event=pb.MachineryJobEnded
        ),
        "compute": flows.Action(
            sources=frozenset({_S.STATE_ENDED}), target=_S.STATE_AREA_COMPUTED,
            event=pb.MachineryJobAreaComputed,
        ),
        "verify": flows.Action(
            sources=frozenset({_S.STATE_AREA_COMPUTED}), target=_S.STATE_VERIFIED,
            event=pb.MachineryJobVerified,
        ),
        "settle": flows.Action(
            sources=frozenset({_S.STATE_VERIFIED}), target=_S.STATE_SETTLED, event=pb.MachineryJobSettled
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_STARTED, _S.STATE_ENDED, _S.STATE_AREA_COMPUTED}),
            target=_S.STATE_CANCELLED, event=pb.MachineryJobCancelled,
        ),
    },
)  # fmt: skip

# positions


def job_at(jobs: Sequence[MachineryJob], time: datetime.datetime, now: datetime.datetime) -> str:
    """Name of the job that ran then, or empty."""
    for job in jobs:
        end = resources.moment(job.end_time) if job.HasField("end_time") else now
        if resources.moment(job.start_time) <= time <= end:
            return job.name
    return ""


def report_positions(request: pb.ReportPositionsRequest, call: calls.Call) -> pb.ReportPositionsResponse:
    """Keeps the points of the terminal's own machine and of a job's time; the others are never stored."""
    jobs = _jobs(request, call)
    kept: dict[str, list[JobTrack.Point]] = {}
    for point in request.points:
        if job := job_at(jobs, resources.moment(point.time), call.now):
            kept.setdefault(job, []).append(point)
    dropped = len(request.points) - sum(map(len, kept.values()))
    for n, (name, points) in enumerate(sorted(kept.items())):
        call.rely_on(call.find(MachineryJob, name))
        oldest = min(resources.moment(point.time) for point in points)
        track = JobTrack(
            job=name, points=points, point_count=len(points), dropped_count=0 if n else dropped,
            expire_time=resources.stamp(oldest + KEPT - LOOK),
        )  # fmt: skip
        call.create(track, parent=request.parent, event=pb.JobTrackCreated)
    return pb.ReportPositionsResponse(kept=len(request.points) - dropped, dropped=dropped)


def _jobs(request: pb.ReportPositionsRequest, call: calls.Call) -> list[MachineryJob]:
    """The jobs whose track the caller may add to: those of the machine it is fixed to that run, or have ended
    and are not computed yet."""
    names = tables.matching(call, Terminal, request.parent, device=call.caller.subject, active=True)
    terminal = call.find(Terminal, names[0]) if names else None
    if terminal is None or terminal.machine != request.machine:
        return []
    found = [
        name
        for state in ("STARTED", "ENDED")
        for name in tables.matching(call, MachineryJob, request.parent, machine=request.machine, state=state)
    ]
    return [job for name in found if (job := call.find(MachineryJob, name)) and job.terminal == terminal.name]


def empty_tracks(store: Store, now: datetime.datetime) -> int:
    """Takes the points out of tracks whose time has come; how many."""
    count = 0
    for name in tables.passed(store, JobTrack, "expire_time", now, BATCH):
        call = calls.own(store, "empty_tracks", now)
        track = call.find(JobTrack, name)
        if track is None or not store.grants.owned(resources.region_in(name)):
            continue
        track.ClearField("points")
        track.ClearField("expire_time")
        call.save(track, pb.JobTrackEmptied)
        store.commit(call.changes.commit())  # type: ignore[arg-type]
        count += 1
    return count


class LettingGo:
    """Lets go of points that have been kept long enough. Not every second: it looks through a whole table."""

    def __init__(self) -> None:
        self._next = resources.EPOCH

    def __call__(self, _process: Any, hosted: Any) -> None:
        now = resources.utcnow()
        if now < self._next:
            return
        self._next = now + LOOK
        while count := empty_tracks(hosted.store, now):
            hosted.committed()
            if count < BATCH:
                break


tick = LettingGo()


# machines and jobs


def check_machine(machine: Machine, _call: calls.Call) -> None:
    if machine.owner_unit and not regions.uscc_valid(machine.owner_unit):
        raise errors.Invalid("machine.owner_unit", "has a wrong check character (GB 32100-2015)")


def check_terminal(terminal: Terminal, call: calls.Call) -> None:
    machine = call.find(Machine, terminal.machine)
    if machine is None or resources.region_in(terminal.machine) != resources.region_in(terminal.name):
        raise errors.Invalid("terminal.machine", "is not a machine of that region")
    terminal.division = machine.division


def create_terminal(request: pb.CreateTerminalRequest, call: calls.Call) -> Terminal:
    terminal = request.terminal
    machine = call.find(Machine, terminal.machine)
    terminal.division = machine.division if machine else f"{resources.region_in(request.parent)}000000"
    made = call.create(terminal, parent=request.parent, event=pb.TerminalCreated, wanted=request.terminal_id)
    check_terminal(made, call)
    return made


def start_machinery_job(request: pb.StartMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = request.machinery_job
    machine, terminal = call.find(Machine, job.machine), call.find(Terminal, job.terminal)
    if machine is None or resources.region_in(job.machine) != resources.region_in(request.parent):
        raise errors.Invalid("machinery_job.machine", "is not a machine of that region")
    if terminal is None or terminal.machine != machine.name or not terminal.active:
        raise errors.Invalid("machinery_job.terminal", "is not fixed to that machine, or not in use")
    if job.kind not in machine.kinds:
        raise errors.Invalid("machinery_job.kind", "is not what the machine can do")
    _own_device(call, terminal, "machinery_job.terminal")
    job.working_width_m, job.starter, job.open_key = machine.working_width_m, call.reference, machine.name
    job.start_time.CopyFrom(resources.stamp(call.now))
    return call.file(job, parent=request.parent, wanted=request.machinery_job_id)


def _own_device(call: calls.Call, terminal: Terminal, field: str) -> None:
    """A device acts for the terminal that it is."""
    if call.caller.roles == {"DEV"} and call.caller.subject != terminal.device:
        raise errors.Invalid(field, "is not the terminal that calls")


def _loaded(call: calls.Call, name: str) -> MachineryJob:
    job = call.load(MachineryJob, name)
    terminal = call.find(Terminal, job.terminal)
    assert terminal is not None
    _own_device(call, terminal, "name")
    return job


def end_machinery_job(request: pb.EndMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = _loaded(call, request.name)
    job.claimed_mu, job.claimed_m2 = request.claimed_mu, tracks.m2_of(request.claimed_mu)
    job.end_time.CopyFrom(resources.stamp(call.now))
    job.ClearField("open_key")
    return call.take(job, "end", reason=request.reason)


def compute_machinery_job(request: pb.ComputeMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = call.load(MachineryJob, request.name)
    rule = _rule(job, call)
    stretches = _tracks(job, call)
    found = tracks.worked(
        _fixes(stretches), width_m=job.working_width_m, longest_gap_s=rule.longest_gap_s,
        fastest_kmh=rule.fastest_kmh, least_depth_cm=rule.least_depth_cm,
    )  # fmt: skip
    job.rule, job.mean_depth_cm = rule.name, found.mean_depth_cm
    job.worked_m2, job.worked_mu = found.area_m2, tracks.mu_of(found.area_m2)
    job.overlap_m2, job.ratio_percent = found.overlap_m2, found.area_m2 / job.claimed_m2 * 100
    job.point_count = sum(stretch.point_count for stretch in stretches)
    job.dropped_count = sum(stretch.dropped_count for stretch in stretches)
    return call.take(job, "compute", reason=request.reason)


def _rule(job: MachineryJob, call: calls.Call) -> JobRule:
    kind = MachineryJob.Kind.Name(job.kind).removeprefix("KIND_")
    name = tables.issued_for(call, JobRule, job.name, kind, resources.moment(job.start_time), field="kind")
    found = call.find(JobRule, name) if name else None
    if found is None:
        raise NoRuleInForce(kind=kind)
    return found


def _tracks(job: MachineryJob, call: calls.Call) -> list[JobTrack]:
    """The stretches of a job's track, which must still hold their points."""
    names = tables.matching(call, JobTrack, job.name, job=job.name)
    found = [stretch for name in names if (stretch := call.find(JobTrack, name))]
    if not found or not all(stretch.points for stretch in found):
        raise TrackIsGone(name=job.name)
    return found


def _fixes(stretches: Sequence[JobTrack]) -> list[tracks.Fix]:
    return [
        tracks.Fix(
            resources.moment(point.time).timestamp(), point.location.latitude, point.location.longitude,
            point.depth_cm,
        )
        for stretch in stretches
        for point in stretch.points
    ]  # fmt: skip


def verify_machinery_job(request: pb.VerifyMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = call.load(MachineryJob, request.name)
    rule = call.find(JobRule, job.rule)
    if rule is not None and job.ratio_percent < rule.least_ratio_percent:
        raise RatioTooLow(
            name=job.name, ratio=f"{job.ratio_percent:.2f}", least=f"{rule.least_ratio_percent:g}"
        )
    if rule is not None and request.verified_mu > min(job.worked_mu, job.claimed_mu):
        raise AreaNotShown(name=job.name, claimed=f"{job.claimed_mu:g}", worked=f"{job.worked_mu:.4f}")
    job.verified_mu, job.verified_m2 = request.verified_mu, tracks.m2_of(request.verified_mu)
    job.verify_time.CopyFrom(resources.stamp(call.now))
    return call.take(job, "verify", reason=request.reason)


def settle_machinery_job(request: pb.SettleMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = call.load(MachineryJob, request.name)
    job.settle_time.CopyFrom(resources.stamp(call.now))
    return call.take(job, "settle", reason=request.reason)


def cancel_machinery_job(request: pb.CancelMachineryJobRequest, call: calls.Call) -> MachineryJob:
    job = _loaded(call, request.name)
    job.ClearField("open_key")
    return call.take(job, "cancel", reason=request.reason)


FIGURES = (
    figures.Figure(
        "H-22.1", "核定面积率", MachineryJob, part="verify_time:*", part_sum="verified_m2",
        whole="verify_time:*", whole_sum="claimed_m2",
    ),
    figures.Figure("H-22.2", "在用终端率", Terminal, part="active = true"),
)  # fmt: skip
RESOURCES = (Machine, Terminal, MachineryJob, JobTrack, JobRule)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(
        pb, Machine, created=pb.MachineCreated, changed=pb.MachineChanged, check=check_machine
    ),
    **records.handlers(pb, Terminal, changed=pb.TerminalChanged, check=check_terminal),
    **records.handlers(pb, MachineryJob),
    **records.handlers(pb, JobRule, created=pb.JobRuleCreated),
    "CreateTerminal": create_terminal,
    "StartMachineryJob": start_machinery_job,
    "EndMachineryJob": end_machinery_job,
    "ComputeMachineryJob": compute_machinery_job,
    "VerifyMachineryJob": verify_machinery_job,
    "SettleMachineryJob": settle_machinery_job,
    "CancelMachineryJob": cancel_machinery_job,
    "ReportPositions": report_positions,
}
