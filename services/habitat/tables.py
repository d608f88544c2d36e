"""The questions about habitat that only SQL can answer."""

import datetime
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from mesh import calls, filters, lists, resources
from mesh.store import Store
from village.habitat.v1 import (
    analysis_pb2,
    appearance_pb2,
    limit_policy_pb2,
    report_pb2,
    report_policy_pb2,
    upkeep_pb2,
    waste_pb2,
)


def policy_in_force(call: calls.Call, region: str, at: datetime.datetime) -> str:
    """Name of the policy of a region that took effect last at or before `at`; empty without one."""
    rows = call.recent(report_policy_pb2.ReportPolicy, _policies, region=region)
    return next((name for effective, name in rows if resources.when(effective) <= at), "")


def limit_policy_in_force(call: calls.Call, region: str, work: str, at: datetime.datetime) -> str:
    """Name of the policy of a region for a kind of work that took effect last at or before `at`, or empty."""
    rows = call.recent(limit_policy_pb2.LimitPolicy, _limit_policies, region=region)
    return next((name for effective, name, of in rows if of == work and resources.when(effective) <= at), "")


def manual_in_force(call: calls.Call, region: str, code: str) -> str:
    """Name of the issued version of a region's manual, or empty."""
    c = call.store.codec(analysis_pb2.Manual).table.c
    wanted = (c.region == region, c.code == code, c.state == "ISSUED")
    return next((name for (name,) in call.select(sa.select(c.name).where(*wanted))), "")


def bins(call: calls.Call, names: Collection[str]) -> list[waste_pb2.Bin]:
    """The bins of those names, in one question: a vehicle asks about a whole route every few seconds."""
    codec = call.store.codec(waste_pb2.Bin)
    rows = call.select(sa.select(*codec.columns).where(codec.table.c.name.in_(names)))
    return [codec.decode(row).message for row in rows]


def undecided_tips(store: Store) -> list[tuple[str, str, datetime.datetime]]:
    """(name, policy, when it was filed) of the image tips that nobody has decided on."""
    c = store.codec(appearance_pb2.ImageTip).table.c
    rows = store.database.select(sa.select(c.name, c.policy, c.file_time).where(c.state == "FILED"))
    return [(name, policy, resources.when(filed)) for name, policy, filed in rows]


def check_scores(call: calls.Call, period: upkeep_pb2.ScorePeriod) -> list[tuple[str, int, int]]:
    """(keeper, kind, score) of the checks that count in a period."""
    codec = call.store.codec(upkeep_pb2.Check)
    c, bounds = codec.table.c, (period.start_time, period.end_time)
    start, end = (call.store.instant(resources.moment(bound)) for bound in bounds)
    wanted = (
        c.region == resources.region_in(period.name),
        filters.within(codec, period.division),
        c.check_time >= start,
        c.check_time < end,
    )
    rows = call.select(sa.select(c.keeper, c.kind, c.score).where(*wanted))
    return [(keeper, upkeep_pb2.Asset.Kind.Value(f"KIND_{kind}"), score) for keeper, kind, score in rows]


def objections_undecided(call: calls.Call, period: str) -> int:
    """How many objections in a period nobody has decided on yet."""
    c = call.store.codec(upkeep_pb2.KeeperScore).table.c
    wanted = (c.region == resources.region_in(period), c.score_period == period, c.state == "OBJECTED")
    return int(call.select(sa.select(sa.func.count()).select_from(c.name.table).where(*wanted))[0][0])


def _limit_policies(policies: sa.Table) -> Any:
    c = policies.c
    return (
        sa.select(c.effective_time, c.name, c.work)
        .where(c.region == sa.bindparam("region", type_=c.region.type))
        .order_by(c.effective_time.desc(), c.name.desc())
    )


def _policies(policies: sa.Table) -> Any:
    c = policies.c
    return (
        sa.select(c.effective_time, c.name)
        .where(c.region == sa.bindparam("region", type_=c.region.type))
        .order_by(c.effective_time.desc(), c.name.desc())
    )


def report_counts(call: calls.Call, request: Any, cut_off: datetime.datetime) -> tuple[int, ...]:
    """(reported, accepted, closed, closed on time, reworked) of the reports that the caller may see and
    the request asks for, each counted by what had happened at the cut-off."""
    codec = call.store.codec(report_pb2.Report)
    c, until = codec.table.c, call.store.instant(cut_off)
    conditions = [
        lists.visible(codec, call.method, call.caller, call.reference, resources.region_in(request.parent)),
        c.file_time <= until,
    ]
    if request.division:
        conditions.append(filters.within(codec, request.division))
    if request.category:
        conditions.append(c.category == report_pb2.Report.Category.Name(request.category)[len("CATEGORY_") :])
    if request.HasField("start_time"):
        conditions.append(c.file_time >= call.store.instant(resources.moment(request.start_time)))
    closed = c.close_time <= until
    # a limit missed only after the cut-off had not been missed yet
    on_time = sa.and_(closed, sa.or_(c.late_time.is_(None), c.late_time > until))
    counted = [sa.true(), c.accept_time <= until, closed, on_time, c.rework_time <= until]
    return tuple(
        call.select(
            sa.select(*(sa.func.coalesce(sa.func.sum(sa.case((what, 1), else_=0)), 0) for what in counted))
            .select_from(codec.table)
            .where(*conditions)
        )[0]
    )
