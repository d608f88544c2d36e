"""Rates as they are published: with numerator, denominator and rounding stated, because figures without them
have been printed wrongly. An area lists its figures; they are computed here, in SQL."""

import dataclasses
import decimal
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from mesh import calls, contract, errors, resources
from services.habitat import tables
from village.habitat.v1 import figure_pb2 as pb
from village.habitat.v1 import report_pb2


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure over one kind of record. `part` and `whole` are filters (AIP-160) that say which records
    count; an empty `whole` is all of them. With a field to sum, that sum takes the place of the count.
    `time`: the instant by which a record belongs to a period, or `date` the day; without one a figure says
    how things stand and is of no period."""

    id: str
    title: str
    resource: type[Message]
    part: str = ""
    whole: str = ""
    part_sum: str = ""
    whole_sum: str = ""
    unit: str = "%"
    time: str = ""
    date: str = ""

    @property
    def formula(self) -> str:
        """How anybody can count again."""
        plural = contract.resource(self.resource).plural
        part, whole = (
            f"sum({plural}.{field}{f', {text}' if text else ''})"
            if field
            else f"count({plural}{', ' * bool(text)}{text})"
            for text, field in ((self.part, self.part_sum), (self.whole, self.whole_sum))
        )
        return f"{part} / {whole}"


def rate(numerator: int, denominator: int) -> report_pb2.Rate:
    """A rate in percent, rounded half up to two decimals; without percent when the whole is 0."""
    found = report_pb2.Rate(numerator=numerator, denominator=denominator)
    if denominator:
        found.percent.value = _rounded(decimal.Decimal(100) * numerator / denominator)
    return found


def _rounded(exact: decimal.Decimal) -> str:
    return str(exact.quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP))


def _computed(
    figure: Figure, call: calls.Call, parent: str, division: str, period: tables.Period
) -> pb.Figure:
    part, whole = tables.part_and_whole(call, figure, parent, division, period)
    found = pb.Figure(id=figure.id, title_zh=figure.title, unit=figure.unit, formula=figure.formula)
    found.numerator, found.denominator = part, whole
    if whole:
        exact = decimal.Decimal(str(part)) / decimal.Decimal(str(whole))
        found.value.value = _rounded(exact * (100 if figure.unit == "%" else 1))
    return found


def computed(
    areas: Sequence[Any],
    ids: Sequence[str],
    parent: str,
    call: calls.Call,
    *,
    division: str = "",
    period: tables.Period = (None, None),
) -> list[pb.Figure]:
    """The figures whose ids begin so, of all that the areas list; with a period those that are of one.
    Invalid for one that there is not."""
    known = sorted((f for area in areas for f in getattr(area, "FIGURES", ())), key=lambda f: _place(f.id))
    for n, wanted in enumerate(ids):
        if not any(_begins(figure.id, wanted) for figure in known):
            raise errors.Invalid(f"ids[{n}]", "is the id of no figure")
    asked = [f for f in known if not ids or any(_begins(f.id, wanted) for wanted in ids)]
    of_period = [f for f in asked if f.time or f.date or period == (None, None)]
    return [_computed(figure, call, parent, division, period) for figure in of_period]


def _period(request: pb.ComputeFiguresRequest) -> tables.Period:
    start, end = (
        resources.moment(getattr(request, bound)) if request.HasField(bound) else None
        for bound in ("start_time", "end_time")
    )
    if start and end and end <= start:
        raise errors.Invalid("end_time", "is not later than start_time")
    return start, end


def handlers(areas: Sequence[Any]) -> Mapping[str, Any]:
    """The method that computes what the areas list."""

    def compute_figures(request: pb.ComputeFiguresRequest, call: calls.Call) -> pb.ComputeFiguresResponse:
        found = computed(
            areas, list(request.ids), request.parent, call, division=request.division, period=_period(request)
        )
        return pb.ComputeFiguresResponse(figures=found, cut_off_time=resources.stamp(call.now))

    return {"ComputeFigures": compute_figures}


def _begins(id_: str, wanted: str) -> bool:
    return id_ == wanted or id_.startswith(f"{wanted}.")


def _place(id_: str) -> list[int]:
    return [int(n) for n in id_.removeprefix("H-").split(".")]
