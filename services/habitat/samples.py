"""Water samples, what laboratories found in them, the quality control of that, and what the public reads
(水样、检测结果、质量控制、公示; H-13, H-14)."""

from typing import Any

from mesh import calls, errors, flows, records, resources
from services.habitat import figures, grading, one_map, tables
from village.habitat.v1 import sample_pb2 as pb
from village.habitat.v1.sample_pb2 import (
    AnalysisBatch,
    LabResult,
    QualityControl,
    QualityTolerance,
    Sample,
    WaterBulletin,
)
from village.habitat.v1.station_pb2 import WaterSource


class SampleHasNoResult(errors.Refused):
    en = "{name} has no result to report"
    zh = "该水样没有检测结果"


class SampleNotInHand(errors.Refused):
    en = "results of {name} are written between its receipt and its report"
    zh = "该水样不在检测期间，不能填报结果"


class ResultsInDoubt(errors.Refused):
    en = "{name} is not published: a quality control that failed puts {factors} in doubt"
    zh = "质控不合格，结果存疑，不能公示"


class NoToleranceInForce(errors.Refused):
    en = "no tolerance of quality control is in force for {factor}"
    zh = "该项目没有施行中的质控允许限"


_S = Sample.State
IN_HAND = (_S.STATE_RECEIVED, _S.STATE_TESTED)
FLOW = flows.Flow(
    resource=Sample,
    actions={
        "take": flows.Action(target=_S.STATE_TAKEN, event=pb.SampleTaken),
        "receive": flows.Action(
            sources=frozenset({_S.STATE_TAKEN}), target=_S.STATE_RECEIVED, event=pb.SampleReceived
        ),
        "reject": flows.Action(
            sources=frozenset({_S.STATE_TAKEN}), target=_S.STATE_REJECTED, event=pb.SampleRejected
        ),
        "test": flows.Action(
            sources=frozenset({_S.STATE_RECEIVED}), target=_S.STATE_TESTED, event=pb.SampleTested
        ),
        "report": flows.Action(
            sources=frozenset({_S.STATE_TESTED}), target=_S.STATE_REPORTED, event=pb.SampleReported
        ),
        "publish": flows.Action(
            sources=frozenset({_S.STATE_REPORTED}), target=_S.STATE_PUBLISHED, event=pb.SamplePublished
        ),
    },
)  # fmt: skip

# rules


def relative_deviation(first: float, second: float) -> float:
    """By how many percent of their sum two values differ (相对偏差); 0 of two zeros."""
    return abs(first - second) / (first + second) * 100 if first + second else 0.0


def recovery(unspiked: float, spiked: float, added: float) -> float:
    """How many percent of what was added were found again (加标回收率)."""
    return (spiked - unspiked) / added * 100


def judge(control: QualityControl, tolerance: QualityTolerance) -> None:
    """Sets kind, figures and outcome of a control by a tolerance. Invalid unless one kind is stated."""
    stated = [kind for kind in ("blank", "duplicate", "spike") if control.HasField(kind)]
    if len(stated) != 1:
        raise errors.Invalid("quality_control", "states one of blank, duplicate and spike")
    control.kind = QualityControl.Kind.Value(f"KIND_{stated[0].upper()}")
    control.tolerance = tolerance.name
    if control.kind == QualityControl.KIND_BLANK:
        control.passed = control.blank.value <= control.blank.lod * tolerance.blank_lod_multiple
    elif control.kind == QualityControl.KIND_DUPLICATE:
        control.relative_deviation_percent = relative_deviation(
            control.duplicate.first, control.duplicate.second
        )
        control.passed = control.relative_deviation_percent <= tolerance.relative_deviation_percent
    else:
        spike = control.spike
        control.recovery_percent = recovery(spike.unspiked, spike.spiked, spike.added)
        control.passed = (
            tolerance.recovery_low_percent <= control.recovery_percent <= tolerance.recovery_high_percent
        )


def blurred(source: WaterSource) -> dict[str, float]:
    """About where a source lies: an intake is not shown to the public (V-17)."""
    at = source.location
    return {"latitude": round(at.latitude, 2), "longitude": round(at.longitude, 2)}


# handlers


def take_sample(request: pb.TakeSampleRequest, call: calls.Call) -> Sample:
    sample = request.sample
    source = call.find(WaterSource, sample.source)
    if source is None or resources.region_in(sample.source) != resources.region_in(request.parent):
        raise errors.Invalid("sample.source", "is not a water source of that region")
    if resources.moment(sample.take_time) > call.now:
        raise errors.Invalid("sample.take_time", "lies in the future")
    sample.division = source.division
    return call.file(sample, parent=request.parent, wanted=request.sample_id)


def receive_sample(request: pb.ReceiveSampleRequest, call: calls.Call) -> Sample:
    sample = call.load(Sample, request.name)
    sample.receive_time.CopyFrom(resources.stamp(call.now))
    return call.take(sample, "receive", reason=request.reason)


def reject_sample(request: pb.RejectSampleRequest, call: calls.Call) -> Sample:
    return call.take(call.load(Sample, request.name), "reject", reason=request.reason)


def test_sample(request: pb.TestSampleRequest, call: calls.Call) -> Sample:
    return call.take(call.load(Sample, request.name), "test", reason=request.reason)


def report_sample(request: pb.ReportSampleRequest, call: calls.Call) -> Sample:
    sample = call.load(Sample, request.name)
    results = _found(call, sample.name, sample=sample.name)
    if not results:
        raise SampleHasNoResult(name=sample.name)
    grading.hold(sample, results, grading.yardsticks(call, _source(sample, call)))
    for result in results:
        call.save(result, pb.LabResultChanged)
    sample.report_time.CopyFrom(resources.stamp(call.now))
    return call.take(sample, "report", reason=request.reason)


def publish_sample(request: pb.PublishSampleRequest, call: calls.Call) -> Sample:
    sample = call.load(Sample, request.name)
    results = sorted(_found(call, sample.name, sample=sample.name), key=lambda result: result.factor)
    if doubtful := [result.factor for result in results if result.suspect]:
        raise ResultsInDoubt(name=sample.name, factors=", ".join(doubtful))
    for result in results:
        call.rely_on(result)
    source = _source(sample, call)
    bulletin = WaterBulletin(
        division=sample.division, title=source.title, location=blurred(source), take_time=sample.take_time,
        publish_time=resources.stamp(call.now), results=[_finding(result) for result in results],
        grade=sample.grade, compliance=sample.compliance, standard=sample.standard,
    )  # fmt: skip
    call.create(bulletin, parent=f"regions/{resources.region_in(sample.name)}", event=pb.WaterBulletinCreated)
    sample.publish_time.CopyFrom(bulletin.publish_time)
    sample.bulletin = bulletin.name
    return call.take(sample, "publish", reason=request.reason)


def _source(sample: Sample, call: calls.Call) -> WaterSource:
    source = call.find(WaterSource, sample.source)
    assert source is not None  # nothing deletes one
    return source


def withdraw_water_bulletin(request: pb.WithdrawWaterBulletinRequest, call: calls.Call) -> WaterBulletin:
    bulletin = call.load(WaterBulletin, request.name)
    for field in ("results", "grade", "compliance"):
        bulletin.ClearField(field)
    bulletin.withdraw_reason = request.reason
    bulletin.withdraw_time.CopyFrom(resources.stamp(call.now))
    return call.save(bulletin, pb.WaterBulletinWithdrawn)


def _found(call: calls.Call, parent: str, **values: Any) -> list[LabResult]:
    names = tables.matching(call, LabResult, parent, **values)
    return [found for name in names if (found := call.find(LabResult, name))]


def _finding(result: LabResult) -> WaterBulletin.Finding:
    finding = WaterBulletin.Finding(
        factor=result.factor, below_lod=result.below_lod, lod=result.lod, unit=result.unit
    )
    if not result.below_lod:
        finding.value = result.value
    return finding


def create_analysis_batch(request: pb.CreateAnalysisBatchRequest, call: calls.Call) -> AnalysisBatch:
    batch = request.analysis_batch
    if not call.caller.organisation:
        raise errors.Invalid("analysis_batch.laboratory", "the caller's token names no laboratory")
    batch.laboratory = call.caller.organisation
    return call.create(
        batch, parent=request.parent, event=pb.AnalysisBatchCreated, wanted=request.analysis_batch_id
    )


def _batch(call: calls.Call, name: str, field: str) -> AnalysisBatch:
    """The caller's own batch, which stays as it is until the commit."""
    batch = call.find(AnalysisBatch, name)
    if batch is None or batch.laboratory != call.caller.organisation:
        raise errors.Invalid(field, "is not a batch of the caller's laboratory")
    call.rely_on(batch)
    return batch


def check_result(result: LabResult, call: calls.Call) -> None:
    """A result has a value, or lies below a detection limit, and its sample is in hand."""
    if result.below_lod and result.value:
        raise errors.Invalid("lab_result.value", "is not stated below the detection limit")
    if result.below_lod and not result.lod:
        raise errors.Invalid("lab_result.lod", "is needed below the detection limit")
    sample = call.find(Sample, result.sample)
    assert sample is not None
    if sample.state not in IN_HAND:
        raise SampleNotInHand(name=sample.name)
    grading.check_unit(result, grading.yardsticks(call, _source(sample, call)))
    call.rely_on(sample)
    batch = _batch(call, result.batch, "lab_result.batch")
    result.suspect = result.factor in batch.failed_factors


def create_lab_result(request: pb.CreateLabResultRequest, call: calls.Call) -> LabResult:
    result = request.lab_result
    if resources.region_in(result.sample) != resources.region_in(request.parent):
        raise errors.Invalid("lab_result.sample", "is not a sample of that region")
    sample = call.load(Sample, result.sample)
    result.division, result.laboratory = sample.division, sample.laboratory
    check_result(result, call)
    return call.create(result, parent=request.parent, event=pb.LabResultCreated, wanted=request.lab_result_id)


def update_lab_result(request: pb.UpdateLabResultRequest, call: calls.Call) -> LabResult:
    request.lab_result.name = request.name
    sample = call.load(LabResult, request.name).sample
    result = call.update(request.lab_result, request.update_mask, pb.LabResultChanged)
    if result.sample != sample:
        raise errors.Invalid("lab_result.sample", "stays what it was")
    result.ClearField("compliance")
    check_result(result, call)
    return result


def create_quality_control(request: pb.CreateQualityControlRequest, call: calls.Call) -> QualityControl:
    control = request.quality_control
    batch = _batch(call, control.batch, "quality_control.batch")
    name = tables.issued_for(call, QualityTolerance, request.parent, control.factor, call.now)
    tolerance = call.find(QualityTolerance, name) if name else None
    if tolerance is None:
        raise NoToleranceInForce(factor=control.factor)
    judge(control, tolerance)
    control.laboratory = batch.laboratory
    if not control.passed:
        control.flagged_results = _flag(batch, control.factor, call)
    return call.create(
        control, parent=request.parent, event=pb.QualityControlCreated, wanted=request.quality_control_id
    )


def _flag(batch: AnalysisBatch, factor: str, call: calls.Call) -> int:
    """Puts the results of a batch and factor in doubt, those to come too; how many there were."""
    if factor not in batch.failed_factors:
        batch.failed_factors.append(factor)
        call.save(batch, pb.AnalysisBatchFailed)
    results = _found(call, batch.name, batch=batch.name, factor=factor)
    for result in results:
        result.suspect = True
        call.save(result, pb.LabResultChanged)
    return len(results)


FIGURES = (
    figures.Figure(
        "H-13.1", "达标率", LabResult, part="compliance = COMPLIANT AND suspect = false",
        whole="compliance:* AND suspect = false",
    ),
    figures.Figure(
        "H-13.4", "水样达标率", Sample, part="compliance = COMPLIANT", whole="compliance:*"
    ),
    figures.Figure("H-14.1", "质控合格率", QualityControl, part="passed = true"),
)  # fmt: skip
LAYERS = (one_map.Layer(WaterBulletin, "水质公示", time="publish_time", public=True, kept_safe=True),)
RESOURCES = (Sample, AnalysisBatch, LabResult, QualityControl, QualityTolerance, WaterBulletin)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, Sample),
    **records.handlers(pb, AnalysisBatch),
    **records.handlers(pb, LabResult),
    **records.handlers(pb, QualityControl),
    **records.handlers(pb, QualityTolerance, created=pb.QualityToleranceCreated),
    **records.handlers(pb, WaterBulletin),
    "TakeSample": take_sample,
    "ReceiveSample": receive_sample,
    "RejectSample": reject_sample,
    "TestSample": test_sample,
    "ReportSample": report_sample,
    "PublishSample": publish_sample,
    "WithdrawWaterBulletin": withdraw_water_bulletin,
    "CreateAnalysisBatch": create_analysis_batch,
    "CreateLabResult": create_lab_result,
    "UpdateLabResult": update_lab_result,
    "CreateQualityControl": create_quality_control,
}
