"""Water samples held against the standards of a drinking source (水质评价, H-13): each result keeps its limit
or not, the sample has the class of its worst factor. Separate from `standards`, which knows no source, and
from `samples`, which knows no limit."""

import dataclasses
import decimal
from collections.abc import Sequence

from mesh import calls, errors, resources
from services.habitat import standards
from village.habitat.v1.sample_pb2 import LabResult, Sample
from village.habitat.v1.standard_pb2 import Standard
from village.habitat.v1.station_pb2 import WaterSource

SURFACE, SUPPLEMENT, GROUND = "gb-3838-2002", "gb-3838-2002-source", "gb-t-14848-2017"
_K = WaterSource.Kind


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """A standard that a source is held against, and what of it must be kept. `grades`: whether the sample's
    class is of it."""

    standard: Standard
    required: str
    water: int = Standard.WATER_UNSPECIFIED
    grades: bool = True


def yardsticks(call: calls.Call, source: WaterSource) -> list[Yardstick]:
    """What holds for a drinking source: Ⅲ, of surface water in a first-class protection zone Ⅱ, and of it the
    supplementary items of drinking sources too (GB 3838-2002, tables 1 and 2; GB/T 14848-2017)."""
    region = f"regions/{resources.region_in(source.name)}"

    def standard(wanted: str) -> Standard:
        found = call.find(Standard, f"{region}/standards/{wanted}")
        assert found is not None  # seeded, and nothing deletes one
        return found

    if source.kind == _K.KIND_GROUNDWATER:
        return [Yardstick(standard(GROUND), "Ⅲ")]
    water = Standard.WATER_RIVER if source.kind == _K.KIND_RIVER else Standard.WATER_LAKE
    supplement = standard(SUPPLEMENT)
    return [
        Yardstick(standard(SURFACE), "Ⅱ" if source.first_class_zone else "Ⅲ", water),
        Yardstick(supplement, supplement.classes[0], grades=False),
    ]


def value(result: LabResult) -> decimal.Decimal:
    """A result as it is graded: below the detection limit half of that."""
    return standards.half(f"<{result.lod!r}" if result.below_lod else repr(result.value))


def check_unit(result: LabResult, by: Sequence[Yardstick]) -> None:
    """Invalid when a result's unit is not that of its limit: nothing is converted in silence."""
    for each in by:
        for limit in each.standard.limits:
            if limit.factor == result.factor and limit.unit != result.unit:
                raise errors.Invalid("lab_result.unit", f"is {limit.unit or 'empty'} in {each.standard.code}")


def hold(sample: Sample, results: Sequence[LabResult], by: Sequence[Yardstick]) -> None:
    """Sets what each result and the sample come to. A factor without a limit, or that the standard does not
    count (TN, faecal coliforms), neither complies nor exceeds."""
    values = {result.factor: value(result) for result in results}
    kept: dict[str, bool] = {}
    doubtful = {result.factor for result in results if result.suspect}
    for each in by:
        found = standards.grade(each.standard, values, water=each.water, required=each.required)
        limited = [g for g in found if g.counted and g.grade is not None]
        for one in limited:
            kept[one.factor] = kept.get(one.factor, True) and not one.exceeds
        if each.grades:
            sample.standard, sample.required_class = each.standard.name, each.required
            sure = [(g.grade or 0, g.factor) for g in limited if g.factor not in doubtful]
            worst = max((place for place, _ in sure), default=None)
            sample.grade = "" if worst is None else [*each.standard.classes, each.standard.below][worst]
            sample.worst_factors[:] = sorted(factor for place, factor in sure if place == worst)
    for result in results:
        result.compliance = _compliance([kept[result.factor]] if result.factor in kept else [])
    sample.compliance = _compliance([good for factor, good in kept.items() if factor not in doubtful])


def _compliance(kept: Sequence[bool]) -> LabResult.Compliance:
    if not kept:
        return LabResult.COMPLIANCE_UNSPECIFIED
    return LabResult.COMPLIANCE_COMPLIANT if all(kept) else LabResult.COMPLIANCE_EXCEEDING
