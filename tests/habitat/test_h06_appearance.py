"""H-6 村容村貌监测: a camera believes to see something, somebody looks, and it becomes a report or is
forgotten."""

import uuid
from typing import Any

import pytest

from mesh import attachments, calls, errors, reactions, resources
from services.habitat import appearance
from tests.county import PHOTO, County
from tests.habitat.people import DIVISION, HERE, PARENT, device, refusal, verbs_of
from tests.loop import rows, take
from village.habitat.v1 import appearance_pb2 as pb
from village.habitat.v1 import devices_pb2, events_pb2, figure_pb2, report_pb2

I, S = pb.ImageTip, pb.Spot  # noqa: E741
CAMERA = devices_pb2.Device.KIND_APPEARANCE_CAMERA


def spot(county: County) -> str:
    wanted = {"division": DIVISION, "title": "北岸广场", "location": HERE, "kind": S.KIND_SQUARE}
    return str(county.call("town", pb.CreateSpotRequest(parent=PARENT, spot=wanted)).name)


def asked(county: County, where: str, **fields: Any) -> pb.FileImageTipRequest:
    tip = {
        "spot": where, "kind": I.KIND_PILING, "confidence": 0.83, "image": PHOTO, "blurred": True,
        "take_time": resources.stamp(county.now), **fields,
    }  # fmt: skip
    return pb.FileImageTipRequest(parent=PARENT, image_tip=tip)


def tip(county: County) -> pb.ImageTip:
    """One of a camera."""
    where = spot(county)
    by = device(county, CAMERA, where).name
    filed: pb.ImageTip = county.call("device", asked(county, where, device=by))
    return filed


def confirm(county: County, of: pb.ImageTip, who: str = "town") -> pb.ImageTip:
    request = pb.ConfirmImageTipRequest(name=of.name, description="广场堆放建材")
    confirmed: pb.ImageTip = county.call(who, request)
    return confirmed


class TestTips:
    def test_becomes_a_report_in_the_same_commit(self, county: County) -> None:
        made = confirm(county, tip(county))
        report = county.call("county", report_pb2.GetReportRequest(name=made.report))
        assert (made.state, made.HasField("image")) == (I.STATE_CONFIRMED, False)
        assert (report.category, report.state) == (
            report_pb2.Report.CATEGORY_APPEARANCE,
            report_pb2.Report.STATE_REPORTED,
        )
        assert (report.division, [p.sha256 for p in report.photos]) == (DIVISION, [PHOTO["sha256"]])
        assert refusal(county, "town", pb.ConfirmImageTipRequest(name=made.name, description="x")) == (
            "ACTION_NOT_ALLOWED"
        )
        assert len(rows(county, "SELECT name FROM reports")) == 1

    def test_is_fixed_when_its_report_was_verified(self, county: County) -> None:
        made = confirm(county, tip(county))
        county.pass_time(days=2)
        for verb in ("accept", "assign", "start", "rectify", "verify"):
            take(county, verb, made.report)
        event = rows(county, "SELECT payload FROM mesh_outbox WHERE name = :n ORDER BY id", n=made.report)[-1]
        call = calls.own(county.store, "fix-image-tips", county.now)
        appearance.on_report_verified(events_pb2.ReportVerified.FromString(bytes(event[0])), call)
        commit = call.changes.commit()
        assert commit is not None
        county.store.commit(commit)
        fixed = county.call("town", pb.GetImageTipRequest(name=made.name))
        assert (fixed.state, fixed.fix_days, fixed.fix_count) == (I.STATE_FIXED, 2, 1)
        appearance.on_report_verified(events_pb2.ReportVerified.FromString(bytes(event[0])), call)  # no harm

    def test_the_reaction_hears_of_verified_reports(self, county: County) -> None:
        assert county.store.reactions["fix-image-tips"] in appearance.REACTIONS
        made = confirm(county, tip(county))
        for verb in ("accept", "assign", "start", "rectify", "verify"):
            take(county, verb, made.report)
        (subject,) = rows(county, "SELECT subject FROM mesh_outbox ORDER BY id DESC LIMIT 1")[0]
        (reaction,) = appearance.REACTIONS
        assert isinstance(reaction, reactions.Reaction)
        pairs = zip(reaction.subject.split("."), subject.split("."), strict=True)
        assert all(wanted in ("*", got) for wanted, got in pairs)

    def test_what_was_rejected_is_forgotten_with_its_image(self, county: County) -> None:
        made = tip(county)
        request = pb.RejectImageTipRequest(name=made.name, cause=I.CAUSE_NOTHING, reason="张三家门口")
        rejected = county.call("town", request)
        assert (rejected.state, rejected.kind, rejected.confidence) == (I.STATE_REJECTED, I.KIND_PILING, 0.83)
        kept = {field.name for field, _ in rejected.ListFields()}
        assert not kept & {"spot", "device", "image", "take_time"}
        assert not rows(county, "SELECT sha256 FROM mesh_attached")
        assert not [r for (r,) in rows(county, "SELECT reason FROM mesh_step") if r]
        county.pass_time(days=2)
        assert attachments.collect(county.store, county.now) == 1
        assert not rows(county, "SELECT sha256 FROM mesh_attachment")
        download = pb.DownloadTipImageRequest(name=made.name, sha256=PHOTO["sha256"])
        assert refusal(county, "town", download) == "NOT_FOUND"

    def test_what_was_rejected_is_deleted_after_a_week(self, county: County) -> None:
        where = spot(county)
        made, other = (county.call("keeper", asked(county, where)) for _ in range(2))
        county.call("town", pb.RejectImageTipRequest(name=made.name, cause=I.CAUSE_NOTHING))
        confirm(county, other)
        county.pass_time(days=6)
        assert appearance.forget(county.store, county.now) == 0
        county.pass_time(days=2)
        assert appearance.forget(county.store, county.now) == 1
        assert refusal(county, "county", pb.GetImageTipRequest(name=made.name)) == "NOT_FOUND"
        listed = county.call("county", pb.ListImageTipsRequest(parent=PARENT)).image_tips
        assert [each.name for each in listed] == [other.name]
        assert not rows(county, "SELECT number FROM mesh_step WHERE name = :n", n=made.name)
        told = rows(county, "SELECT type, payload FROM mesh_outbox WHERE name = :n ORDER BY id", n=made.name)
        assert told[-1][0].endswith("ImageTipDeleted")
        for kind, payload in told:
            event = getattr(pb, kind.rpartition(".")[2]).FromString(bytes(payload))
            assert {field.name for field, _ in event.image_tip.ListFields()} == {"name", "etag"}
        audited = rows(county, "SELECT method, after_digest FROM mesh_audit WHERE name = :n", n=made.name)
        assert "forget" in {method for method, _ in audited}
        assert all(digest for _, digest in audited)

    def test_are_counted_when_they_are_gone(self, county: County) -> None:
        where = spot(county)
        first, *others = (county.call("keeper", asked(county, where)) for _ in range(4))
        for each in others:
            county.call("town", pb.RejectImageTipRequest(name=each.name, cause=I.CAUSE_NOTHING))
        confirm(county, first)
        county.pass_time(days=8)
        assert appearance.forget(county.store, county.now) == 3
        wanted = figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-6.1"])
        (rate,) = county.call("county", wanted).figures
        assert (rate.numerator, rate.denominator, rate.value.value) == (1, 4, "25.00")
        (tally,) = county.call("county", pb.ListImageTipTalliesRequest(parent=PARENT)).image_tip_tallies
        assert (tally.division, tally.month, tally.rejected_count) == (DIVISION, "2026-03", 3)

    def test_is_forgotten_when_nobody_looks(self, county: County) -> None:
        made = tip(county)
        county.pass_time(days=29)
        assert appearance.forget(county.store, county.now) == 0
        county.pass_time(days=2)
        assert appearance.forget(county.store, county.now) == 1
        assert appearance.forget(county.store, county.now) == 0
        gone = county.call("town", pb.GetImageTipRequest(name=made.name))
        assert (gone.state, gone.cause, gone.spot) == (I.STATE_REJECTED, I.CAUSE_UNSEEN, "")
        assert not rows(county, "SELECT sha256 FROM mesh_attached")

    def test_is_taken_only_when_faces_and_plates_were_blurred(self, county: County) -> None:
        where = spot(county)
        for blurred in ({"blurred": False}, {}):
            request = asked(county, where, **blurred)
            if not blurred:
                request.image_tip.ClearField("blurred")
            with pytest.raises(errors.Invalid, match="blurred"):
                county.call("keeper", request)
        assert refusal(county, "keeper", asked(county, where)) == "OK"

    def test_has_no_field_for_a_person_or_household(self) -> None:
        for of in (pb.ImageTip, pb.Spot):
            words = ("face", "plate", "person", "household", "owner", "address", "track")
            assert not [f for f in of.DESCRIPTOR.fields_by_name if any(w in f for w in words)]

    def test_a_camera_tells_of_its_own_spot_only(self, county: County) -> None:
        where, other = spot(county), spot(county)
        by = device(county, CAMERA, where).name
        assert refusal(county, "device", asked(county, other, device=by)) == "NOT_THE_DEVICE"
        assert refusal(county, "device", asked(county, where)) == "NOT_THE_DEVICE"
        assert refusal(county, "device", asked(county, where, device=by)) == "OK"

    def test_says_nothing_in_its_events(self, county: County) -> None:
        made = tip(county)
        (payload,) = rows(county, "SELECT payload FROM mesh_outbox WHERE name = :n", n=made.name)[0]
        assert pb.ImageTipFiled.FromString(bytes(payload)).image_tip == I(name=made.name, etag="1")
        assert verbs_of(county, made.name) == ["filed"]

    def test_is_looked_at_by_its_township_or_county(self, county: County) -> None:
        made = tip(county)
        request = pb.ConfirmImageTipRequest(name=made.name, description="x")
        for who in ("village", "keeper", "device", "other_town"):
            assert refusal(county, who, request) == "FORBIDDEN"
        download = pb.DownloadTipImageRequest(name=made.name, sha256=PHOTO["sha256"])
        assert refusal(county, "village", download) == "FORBIDDEN"
        county.pass_time(days=4)
        county.hosted.tick()
        assert county.call("county", pb.GetImageTipRequest(name=made.name)).overdue
        assert confirm(county, made, "county").state == I.STATE_CONFIRMED

    def test_has_an_id_that_its_report_can_have(self, county: County) -> None:
        where = spot(county)
        request = asked(county, where)
        request.image_tip_id = "tip-1"
        assert refusal(county, "keeper", request) == "INVALID"
        request.image_tip_id = str(uuid.uuid4())
        made = county.call("keeper", request)
        assert confirm(county, made).report == f"{PARENT}/reports/{request.image_tip_id}"
