"""Standards and their limits as data (标准), and values held against them: rounding, class by class, the
worst factor. Their numbers stand in `standards.json`, none in code."""

import dataclasses
import decimal
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mesh import calls, errors, records
from village.habitat.v1 import standard_pb2 as pb
from village.habitat.v1.standard_pb2 import Standard

DATA = pathlib.Path(__file__).with_name("standards.json")
TEMPERATURE = "w01010"
Decimal = decimal.Decimal


@dataclasses.dataclass(frozen=True)
class Graded:
    """One factor held against a standard. `grade` is None where there is no limit for it."""

    factor: str
    value: Decimal
    grade: int | None
    bound: Standard.Bound | None
    counted: bool
    exceeds: bool


def half(text: str) -> Decimal:
    """A value as it is graded: one below the detection limit as half of that."""
    return Decimal(text[1:]) / 2 if text.startswith("<") else Decimal(text)


def rounded(value: Decimal, limit: str) -> Decimal:
    """A value with the decimals of a limit, half to even (四舍六入五留双, GB/T 8170)."""
    return value.quantize(Decimal(1).scaleb(-len(limit.partition(".")[2])), decimal.ROUND_HALF_EVEN)


def keeps(value: Decimal, bound: Standard.Bound, temperature: Decimal | None) -> bool:
    """Whether a value keeps a bound. Of dissolved oxygen saturation may take the place of the least value."""
    if bound.saturation_percent and temperature is not None:
        saturation = Decimal(468) / (Decimal("31.6") + temperature)
        if value * 100 >= saturation * Decimal(bound.saturation_percent):
            return True
    if bound.min and rounded(value, bound.min) < Decimal(bound.min):
        return False
    return not bound.max or rounded(value, bound.max) <= Decimal(bound.max)


def limit_of(
    standard: Standard, factor: str, *, water: int = 0, temperature: Decimal | None = None
) -> Standard.Limit | None:
    """The limit of a factor there; None when the standard has none. Invalid when it hangs on a temperature
    that is not known."""
    for limit in standard.limits:
        if limit.factor != factor or limit.water not in (Standard.WATER_UNSPECIFIED, water):
            continue
        if limit.when == Standard.WHEN_UNSPECIFIED:
            return limit
        if temperature is None:
            raise errors.Invalid("values", f"{factor} needs {TEMPERATURE}, the water's temperature")
        if (temperature > 12) == (limit.when == Standard.WHEN_ABOVE_12):
            return limit
    return None


def grade(
    standard: Standard, values: Mapping[str, Decimal], *, water: int = 0, required: str = ""
) -> list[Graded]:
    """Each factor's class, as a place in `standard.classes`, or one behind the last."""
    temperature, found = values.get(TEMPERATURE), []
    wanted = list(standard.classes).index(required) if required else None
    for factor, value in values.items():
        limit = limit_of(standard, factor, water=water, temperature=temperature)
        if limit is None:
            found.append(Graded(factor, value, None, None, counted=False, exceeds=False))
            continue
        kept = (n for n, bound in enumerate(limit.bounds) if keeps(value, bound, temperature))
        bound = limit.bounds[wanted] if wanted is not None else None
        found.append(
            Graded(
                factor, value, next(kept, len(standard.classes)), bound, counted=not limit.uncounted,
                exceeds=bound is not None and not keeps(value, bound, temperature),
            )
        )  # fmt: skip
    return found


def grade_water(request: pb.GradeWaterRequest, call: calls.Call) -> pb.GradeWaterResponse:
    standard = call.load(Standard, request.name)
    if request.required_class and request.required_class not in standard.classes:
        raise errors.Invalid("required_class", f"is none of {', '.join(standard.classes)}")
    given = dict(text.split(":", 1) for text in request.values)
    values = {factor: half(text) for factor, text in given.items()}
    found = grade(standard, values, water=request.water, required=request.required_class)
    names = [*standard.classes, standard.below]
    counted = [g.grade for g in found if g.counted and g.grade is not None]
    answer = pb.GradeWaterResponse(complies=not any(g.exceeds and g.counted for g in found))
    if counted:
        answer.grade = names[max(counted)]
        answer.worst.extend(g.factor for g in found if g.counted and g.grade == max(counted))
    for one in found:
        graded = answer.factors.add(factor=one.factor, exceeds=one.exceeds, unlimited=one.grade is None)
        graded.grade = "" if one.grade is None else names[one.grade]
        side = one.bound and (one.bound.max or one.bound.min)
        graded.value = str(rounded(one.value, side) if side else one.value)
        if one.bound is not None:
            graded.bound.CopyFrom(one.bound)
    return answer


def issue_standard(request: pb.IssueStandardRequest, call: calls.Call) -> Standard:
    for n, limit in enumerate(request.standard.limits):
        if len(limit.bounds) != len(request.standard.classes):
            raise errors.Invalid(f"standard.limits[{n}].bounds", "has not one bound for each class")
    return call.create(
        request.standard, parent=request.parent, event=pb.StandardIssued, wanted=request.standard_id
    )


def shipped() -> dict[str, Standard]:
    """The national standards, and some provinces', as they come with the platform."""
    return {entry["id"]: _standard(entry) for entry in json.loads(DATA.read_text())}


def _standard(entry: dict[str, Any]) -> Standard:
    year, month, day = map(int, entry["valid_from"].split("-"))
    found = Standard(
        code=entry["code"], title=entry["title"], classes=entry["classes"], below=entry["below"],
        medium=f"MEDIUM_{entry['medium']}", confidence=f"CONFIDENCE_{entry['confidence']}",
        valid_from={"year": year, "month": month, "day": day},
    )  # fmt: skip
    blank = [""] * len(entry["classes"])
    for limit in entry["limits"]:
        sides = (limit.get(side, blank) for side in ("min", "max", "saturation"))
        found.limits.add(
            factor=limit["factor"], title=limit["title"], unit=limit["unit"],
            water=f"WATER_{limit.get('water', 'UNSPECIFIED')}",
            when=f"WHEN_{limit.get('when', 'UNSPECIFIED')}",
            uncounted=not limit.get("counted", True),
            confidence=f"CONFIDENCE_{limit.get('confidence', 'UNSPECIFIED')}",
            bounds=[
                Standard.Bound(min=low, max=high, saturation_percent=part)
                for low, high, part in zip(*sides, strict=True)
            ],
        )  # fmt: skip
    return found


def seed(call: calls.Call) -> None:
    """What the platform brings, into each region that is owned here."""
    for wanted, standard in shipped().items():
        if call.find(Standard, f"regions/{call.region}/standards/{wanted}") is None:
            call.create(standard, parent=f"regions/{call.region}", event=pb.StandardIssued, wanted=wanted)


RESOURCES = (Standard,)
HANDLERS = {
    **records.handlers(pb, Standard),
    "GradeWater": grade_water,
    "IssueStandard": issue_standard,
}
