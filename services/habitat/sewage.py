"""Facilities that treat villages' sewage (农村生活污水治理监测, H-5): what they are, and how they ran each
month by what their stations measured (过程管控、水质监控、运营状态评估)."""

import calendar
import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from mesh import calls, errors, records, regions, resources
from services.habitat import figures, one_map, series_tables, standards, tables
from services.habitat.series import BEIJING_MS, HOUR_MS
from village.habitat.v1 import sewage_pb2 as pb
from village.habitat.v1.sewage_pb2 import OperationRating, RatingRule, SewageFacility
from village.habitat.v1.standard_pb2 import Standard
from village.habitat.v1.station_pb2 import Station

FLOW = "w00000"
"""Flow, m³/h (HJ 212)."""
DEFAULT = RatingRule(
    from_month="2000-01", basis="platform defaults, not from a standard; a region issues its own",
    good_running_percent=90, fair_running_percent=75, good_compliance_percent=90, fair_compliance_percent=75,
)  # fmt: skip


class MonthNotOver(errors.Refused):
    en = "{month} is not over"
    zh = "该月尚未结束"


def operator_is_one(facility: SewageFacility, _call: calls.Call) -> None:
    if facility.operator and not regions.uscc_valid(facility.operator):
        raise errors.Invalid("sewage_facility.operator", "has a wrong check character (GB 32100-2015)")


def issue_rating_rule(request: pb.IssueRatingRuleRequest, call: calls.Call) -> RatingRule:
    rule = request.rating_rule
    if rule.fair_running_percent > rule.good_running_percent:
        raise errors.Invalid("rating_rule.fair_running_percent", "is above that for GOOD")
    if rule.fair_compliance_percent > rule.good_compliance_percent:
        raise errors.Invalid("rating_rule.fair_compliance_percent", "is above that for GOOD")
    return call.create(rule, parent=request.parent, event=pb.RatingRuleIssued, wanted=request.rating_rule_id)


def rate_operation_rating(request: pb.RateOperationRatingRequest, call: calls.Call) -> OperationRating:
    rating = request.operation_rating
    facility = call.find(SewageFacility, rating.facility)
    if facility is None or resources.region_in(rating.facility) != resources.region_in(request.parent):
        raise errors.Invalid("operation_rating.facility", "is not a facility of that region")
    first, behind = _month(rating.month)
    if behind > int(call.now.timestamp() * 1000):
        raise MonthNotOver(month=rating.month)
    rating.division, rating.month_hours = facility.division, (behind - first) // HOUR_MS
    flows, kept = _measured(call, facility.name, first, behind)
    rating.running_hours = sum(flow > 0 for flow in flows.values())
    rating.treated_m3 = round(sum(flows.values()), 3)
    rating.measured_hours, rating.compliant_hours = len(kept), sum(kept.values())
    rating.design_m3 = facility.design_m3_per_day * rating.month_hours / 24
    rating.load_percent = round(100 * rating.treated_m3 / rating.design_m3, 2)
    rating.running.CopyFrom(figures.rate(rating.running_hours, rating.month_hours))
    rating.compliance.CopyFrom(figures.rate(rating.compliant_hours, rating.measured_hours))
    rule = tables.rating_rule(call, RatingRule, resources.region_in(request.parent), rating.month)
    rating.rule, rating.grade = rule.name, graded(rating, rule)
    return call.create(
        rating, parent=request.parent, event=pb.OperationRatingRated, wanted=request.operation_rating_id
    )


def graded(rating: OperationRating, rule: RatingRule) -> OperationRating.Grade:
    """The grade that a rule gives to what was measured."""
    if not rating.measured_hours or not rating.running_hours:
        return OperationRating.GRADE_POOR if rating.measured_hours else OperationRating.GRADE_UNMEASURED
    running = 100 * rating.running_hours / rating.month_hours
    compliance = 100 * rating.compliant_hours / rating.measured_hours
    if running >= rule.good_running_percent and compliance >= rule.good_compliance_percent:
        return OperationRating.GRADE_GOOD
    if running >= rule.fair_running_percent and compliance >= rule.fair_compliance_percent:
        return OperationRating.GRADE_FAIR
    return OperationRating.GRADE_POOR


def _measured(
    call: calls.Call, facility: str, first: int, behind: int
) -> tuple[Mapping[int, float], Mapping[int, bool]]:
    """By the hour: the mean flow, and whether every factor with a limit kept it."""
    flows: dict[int, float] = {}
    means: dict[int, dict[str, Decimal]] = {}
    kept: dict[int, bool] = {}
    for station in tables.stations_at(call, Station, facility):
        standard = call.find(Standard, station.standard) if station.standard else None
        by_series = {series_tables.series_of(station.name, i.factor): i.factor for i in station.instruments}
        for number, hour, _, valid, total, *_ in series_tables.sums_of(
            call.store, "reading_hours", list(by_series), first, behind
        ):
            if not valid:
                continue
            if by_series[number] == FLOW:
                flows[hour] = flows.get(hour, 0.0) + total / valid
            means.setdefault(hour, {})[by_series[number]] = Decimal(str(total / valid))
        if standard is None:
            continue
        for hour, values in means.items():
            limited = {f: v for f, v in values.items() if _limited(standard, f, values)}
            found = standards.grade(
                standard, {**limited, **_temperature(values)}, required=station.standard_class
            )
            if limited:
                kept[hour] = kept.get(hour, True) and not any(g.exceeds for g in found)
    return flows, kept


def _temperature(values: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {f: v for f, v in values.items() if f == standards.TEMPERATURE}


def _limited(standard: Any, factor: str, values: Mapping[str, Decimal]) -> bool:
    """Whether the standard limits a factor; one whose limit hangs on a temperature that is not known is not
    judged."""
    try:
        return standards.limit_of(standard, factor, temperature=values.get(standards.TEMPERATURE)) is not None
    except errors.Invalid:
        return False


def _month(text: str) -> tuple[int, int]:
    """(first millisecond, first of the next) of a month in Beijing."""
    year, month = map(int, text.split("-"))
    first = calendar.timegm(datetime.date(year, month, 1).timetuple()) * 1000 - BEIJING_MS
    return first, first + calendar.monthrange(year, month)[1] * 24 * HOUR_MS


def seed(call: calls.Call) -> None:
    """The platform's own rule, until a region issues one."""
    if call.find(RatingRule, f"regions/{call.region}/ratingRules/default") is None:
        rule = RatingRule()
        rule.CopyFrom(DEFAULT)
        call.create(rule, parent=f"regions/{call.region}", event=pb.RatingRuleIssued, wanted="default")


FIGURES = (
    figures.Figure("H-5.1", "正常运行率", OperationRating, part_sum="running_hours", whole_sum="month_hours"),
    figures.Figure(
        "H-5.2", "达标率", OperationRating, part_sum="compliant_hours", whole_sum="measured_hours"
    ),
    figures.Figure("H-5.3", "负荷率", OperationRating, part_sum="treated_m3", whole_sum="design_m3"),
)
LAYERS = (one_map.Layer(SewageFacility, "污水处理设施", state="process"),)
RESOURCES = (SewageFacility, RatingRule, OperationRating)
HANDLERS: dict[str, Any] = {
    **records.handlers(
        pb, SewageFacility, created=pb.SewageFacilityCreated, changed=pb.SewageFacilityChanged,
        check=operator_is_one,
    ),
    **records.handlers(pb, RatingRule),
    **records.handlers(pb, OperationRating),
    "IssueRatingRule": issue_rating_rule,
    "RateOperationRating": rate_operation_rating,
}  # fmt: skip
