"""The questions about habitat that only SQL can answer."""

import datetime
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from mesh import calls, filters, lists, regions, resources, store
from village.habitat.v1 import (
    analysis_pb2,
    appearance_pb2,
    limit_policy_pb2,
    reading_pb2,
    report_pb2,
    report_policy_pb2,
    supervision_pb2,
    upkeep_pb2,
    waste_pb2,
)
from village.habitat.v1.scheme_pb2 import VillageType
from village.habitat.v1.station_pb2 import WaterSource

CHINA = datetime.timezone(datetime.timedelta(hours=8))


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


def undecided_tips(opened: store.Store) -> list[tuple[str, str, datetime.datetime]]:
    """(name, policy, when it was filed) of the image tips that nobody has decided on."""
    c = opened.codec(appearance_pb2.ImageTip).table.c
    rows = opened.database.select(sa.select(c.name, c.policy, c.file_time).where(c.state == "FILED"))
    return [(name, policy, resources.when(filed)) for name, policy, filed in rows]


def rejected_tips(opened: store.Store, before: datetime.datetime) -> list[str]:
    """Names of image tips that were rejected before a time, some of them if there are many."""
    c = opened.codec(appearance_pb2.ImageTip).table.c
    wanted = (c.state == "REJECTED", c.decide_time < opened.instant(before))
    return [name for (name,) in opened.database.select(sa.select(c.name).where(*wanted).limit(500))]


def last_days(opened: store.Store) -> list[tuple[str, str]]:
    """(station, date) of the last day that was summed up of each station."""
    c = opened.codec(reading_pb2.StationDay).table.c
    rows = opened.database.select(sa.select(c.station, sa.func.max(c.date)).group_by(c.station))
    return [(station, date) for station, date in rows]


def duty(call: calls.Call, record: Any, start: datetime.datetime, end: datetime.datetime) -> dict[str, int]:
    """What the tasks come to that were issued to a record's region in a span, by field of the record;
    withdrawn ones are none."""
    codec = call.store.codec(supervision_pb2.SupervisionTask)
    c = codec.table.c
    done, late = c.state == "VERIFIED", c.late_time.is_not(None)
    counted = {
        "task_count": sa.true(), "accepted_count": c.accept_time.is_not(None), "verified_count": done,
        "on_time_count": sa.and_(done, sa.not_(late)), "overdue_count": late,
        "returned_count": c.return_count > 0, "sent_back_count": c.rework_count > 0,
    }  # fmt: skip
    wanted = (
        filters.within(codec, record.about_region),
        c.state != "WITHDRAWN",
        c.issue_time >= call.store.instant(start),
        c.issue_time < call.store.instant(end),
        c.issuer_region.like(f"{regions.prefix(resources.region_in(record.name))}%"),
    )
    sums = (sa.func.coalesce(sa.func.sum(sa.case((what, 1), else_=0)), 0) for what in counted.values())
    (row,) = call.select(sa.select(*sums).where(*wanted))
    return dict(zip(counted, map(int, row), strict=True))


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


Period = tuple[datetime.datetime | None, datetime.datetime | None]
"""From when, and before when; None for no bound."""


def _in_period(call: calls.Call, figure: Any, table: sa.Table, period: Period) -> list[Any]:
    """The conditions for what belongs to a period, by when it happened."""
    field: Any = table.c[figure.time or figure.date] if figure.time or figure.date else None
    bounds: list[Any] = [
        bound and (call.store.instant(bound) if figure.time else bound.astimezone(CHINA).date().isoformat())
        for bound in period
    ]
    found = []
    if bounds[0]:
        found.append(field >= bounds[0])
    if bounds[1]:
        found.append(field < bounds[1])
    return found


def part_and_whole(
    call: calls.Call, figure: Any, parent: str, division: str, period: Period = (None, None)
) -> tuple[float, float]:
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
    conditions += _in_period(call, figure, table, period)
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


def last_before(call: calls.Call, cls: Any, parent: str, field: str, at: Timestamp, **values: Any) -> str:
    """Name of the record of a region with these values whose time in `field` is the last before `at`, or
    empty."""
    c = call.store.codec(cls).table.c
    wanted = [c[other] == value for other, value in values.items()]
    earlier = c[field] < call.store.instant(resources.moment(at))
    statement = sa.select(c.name).where(c.region == resources.region_in(parent), *wanted, earlier)
    rows = call.select(statement.order_by(c[field].desc(), c.name.desc()).limit(1))
    return next((str(name) for (name,) in rows), "")


def passed(opened: store.Store, cls: Any, field: str, now: datetime.datetime, most: int) -> list[str]:
    """Names of records whose time in `field` has passed, the earliest first."""
    c = opened.codec(cls).table.c
    statement = sa.select(c.name).where(c[field] < opened.instant(now)).order_by(c[field]).limit(most)
    return [name for (name,) in opened.database.select(statement)]


def issued_for(
    call: calls.Call, cls: Any, parent: str, what: str, at: datetime.datetime, *, field: str = "factor"
) -> str:
    """Name of what was issued for a factor or a kind, or else for all, and took effect last at or before
    `at`: by the region, or else by one above it. Empty without one."""
    c, region = call.store.codec(cls).table.c, resources.region_in(parent)
    statement = (
        sa.select(c.name)
        .where(c.region.in_((region, f"{region[:4]}00", f"{region[:2]}0000")), c[field].in_((what, "")))
        .where(c.effective_time <= call.store.instant(at))
        .order_by(c.region.desc(), c[field].desc(), c.effective_time.desc(), c.name.desc())
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


def is_open(opened: store.Store, cls: Any, key: str) -> bool:
    """Whether there is an open exceedance of that key."""
    t = opened.codec(cls).table
    return bool(opened.database.select(sa.select(t.c.name).where(t.c.open_key == key).limit(1)))


def placed(call: calls.Call, layer: Any, request: Any, behind: str, most: int) -> Sequence[Any]:
    """(name, division, longitude, latitude, boundary, title, state, time) of what a layer draws, by name
    behind one."""
    codec, region = call.store.codec(layer.resource), resources.region_in(request.parent)
    c, none = codec.table.c, sa.null()
    place = c[layer.place]
    longitude, latitude = (_degree(call.store, place, side) for side in ("longitude", "latitude"))
    conditions = [lists.visible(codec, call.method, call.caller, call.reference, region), c.name > behind]
    if request.division:
        conditions.append(filters.within(codec, request.division))
    polygon = layer.place == "boundary"
    if request.box and not polygon:
        west, south, east, north = request.box
        conditions += [longitude.between(west, east), latitude.between(south, north)]
    if layer.time:
        if request.HasField("start_time"):
            conditions.append(c[layer.time] >= call.store.instant(resources.moment(request.start_time)))
        if request.HasField("end_time"):
            conditions.append(c[layer.time] < call.store.instant(resources.moment(request.end_time)))
    columns = (
        c.name, c[codec.resource.division] if codec.resource.division else none,
        none if polygon else longitude, none if polygon else latitude, place if polygon else none,
        c.title if "title" in c else none, c[layer.state] if layer.state else none,
        c[layer.time] if layer.time else none,
    )  # fmt: skip
    return call.select(sa.select(*columns).where(*conditions).order_by(c.name).limit(most))


def _degree(opened: store.Store, place: Any, side: str) -> Any:
    if opened.sqlite:
        return sa.func.json_extract(place, f"$.{side}")
    return place[side].as_float()


def stations_of(opened: store.Store, cls: Any, number: str) -> list[str]:
    """Names of the stations with a device number."""
    t = opened.codec(cls).table
    asked = sa.select(t.c.name).where(t.c.device_number == number).order_by(t.c.name)
    return [name for (name,) in opened.database.select(asked)]


def stations_at(call: calls.Call, cls: Any, subject: str) -> list[Any]:
    """The stations that stand at something, such as a facility."""
    codec = call.store.codec(cls)
    asked = sa.select(*codec.columns).where(codec.table.c.subject == subject).order_by(codec.table.c.name)
    return [codec.decode(row).message for row in call.select(asked)]


def rating_rule(call: calls.Call, cls: Any, region: str, month: str) -> Any:
    """The rule of a region that holds for a month: the last that began by then."""
    codec = call.store.codec(cls)
    c = codec.table.c
    asked = (
        sa.select(*codec.columns)
        .where(c.region == region, c.from_month <= month)
        .order_by(c.from_month.desc(), c.name.desc())
        .limit(1)
    )
    return codec.decode(call.select(asked)[0]).message


def seen_stations(call: calls.Call, cls: Any, parent: str) -> list[str]:
    """Names of the stations that the caller may see in a region."""
    codec = call.store.codec(cls)
    place = lists.visible(codec, call.method, call.caller, call.reference, resources.region_in(parent))
    return [name for (name,) in call.select(sa.select(codec.table.c.name).where(place))]
