"""The questions about habitat that only SQL can answer."""

import datetime
from typing import Any

import sqlalchemy as sa

from mesh import calls, filters, lists, resources
from village.habitat.v1 import limit_policy_pb2, report_pb2, report_policy_pb2
from village.habitat.v1.scheme_pb2 import VillageType
from village.habitat.v1.station_pb2 import WaterSource


def policy_in_force(call: calls.Call, region: str, at: datetime.datetime) -> str:
    """Name of the policy of a region that took effect last at or before `at`; empty without one."""
    rows = call.recent(report_policy_pb2.ReportPolicy, _policies, region=region)
    return next((name for effective, name in rows if resources.when(effective) <= at), "")


def limit_policy_in_force(call: calls.Call, region: str, work: str, at: datetime.datetime) -> str:
    """Name of the policy of a region for a kind of work that took effect last at or before `at`, or empty."""
    rows = call.recent(limit_policy_pb2.LimitPolicy, _limit_policies, region=region)
    return next((name for effective, name, of in rows if of == work and resources.when(effective) <= at), "")


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


def part_and_whole(call: calls.Call, figure: Any, parent: str, division: str) -> tuple[float, float]:
    """(part, whole) of a figure, over what the caller may see in a region, or a division of it."""
    codec, region = call.store.codec(figure.resource), resources.region_in(parent)
    table = codec.table
    counted = []
    for text, field in ((figure.part, figure.part_sum), (figure.whole, figure.whole_sum)):
        condition = filters.condition(text, codec, region)
        each: Any = table.c[field] if field else 1
        counted.append(each if condition is None else sa.case((condition, each), else_=0))
    conditions = [lists.visible(codec, call.method, call.caller, call.reference, region)]
    if division:
        conditions.append(filters.within(codec, division))
    sums = (sa.func.coalesce(sa.func.sum(what), 0) for what in counted)
    part, whole = call.select(sa.select(*sums).select_from(table).where(*conditions))[0]
    return float(part), float(whole)


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


def matching(call: calls.Call, cls: Any, parent: str, **values: Any) -> list[str]:
    """Names of the records of a region that hold exactly these values, oldest first."""
    table = call.store.codec(cls).table
    wanted = [table.c[field] == value for field, value in values.items()]
    here = table.c.region == resources.region_in(parent)
    rows = call.select(sa.select(table.c.name).where(here, *wanted).order_by(table.c.name))
    return [name for (name,) in rows]


def issued_for(call: calls.Call, cls: Any, parent: str, factor: str, at: datetime.datetime) -> str:
    """Name of what was issued for a factor, or else for all, and took effect last at or before `at`: by the
    region, or else by one above it. Empty without one."""
    c, region = call.store.codec(cls).table.c, resources.region_in(parent)
    statement = (
        sa.select(c.name)
        .where(c.region.in_((region, f"{region[:4]}00", f"{region[:2]}0000")), c.factor.in_((factor, "")))
        .where(c.effective_time <= call.store.instant(at))
        .order_by(c.region.desc(), c.factor.desc(), c.effective_time.desc(), c.name.desc())
        .limit(1)
    )
    return next((str(name) for (name,) in call.select(statement)), "")


def sources_with_scheme(call: calls.Call, parent: str) -> tuple[int, int]:
    """(those whose village type has a scheme in force, all) of the water sources that the caller may see."""
    codec, types = call.store.codec(WaterSource), call.store.codec(VillageType).table
    source = codec.table
    covered = sa.exists().where(
        types.c.region == source.c.region, types.c.code == source.c.village_type, types.c.scheme != ""
    )
    visible = lists.visible(codec, call.method, call.caller, call.reference, resources.region_in(parent))
    counted = (sa.func.coalesce(sa.func.sum(sa.case((what, 1), else_=0)), 0) for what in (covered, sa.true()))
    part, whole = call.select(sa.select(*counted).select_from(source).where(visible))[0]
    return int(part), int(whole)
