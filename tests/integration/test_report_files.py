"""Photos and evidence (I7): taken by content, cleaned, kept once, shown to whom they concern, collected; and
more time, batches and figures beside them; on both databases."""

import datetime
import hashlib
import io
import struct
import zlib
from typing import Any

import pytest

from cli import sample
from mesh import attachments, errors, media, resources, rpc
from services.habitat import report_flow
from tests.county import PHOTO, County
from tests.loop import PARENT, file, reach, rows, steps, take
from village.habitat.v1 import report_pb2 as pb
from village.type.v1 import attachment_pb2

PLACE = b"29.261234N 115.107741E Canon-7741"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(turned: int = 6) -> bytes:
    """A photo as a telephone writes it: EXIF with place and way up, XMP, a comment, a colour profile."""
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, turned, 0, 0) + PLACE
    whole = segment(0xE1, b"Exif\0\0" + tiff) + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PLACE)
    return (
        sample.PHOTO[:2] + whole + segment(0xFE, PLACE) + segment(0xE2, b"ICC_PROFILE\0") + sample.PHOTO[2:]
    )


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png() -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    told = chunk(b"tEXt", b"Comment\0" + PLACE) + chunk(b"eXIf", PLACE)
    return b"\x89PNG\r\n\x1a\n" + head + told + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def box(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + name + body


MP4 = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", box(b"udta", PLACE)) + box(b"mdat", b"picture" * 9)
MP3 = b"ID3\x04\0\0" + bytes([0, 0, 0, len(PLACE)]) + PLACE + b"\xff\xfb\x90\0" * 9
FILES = {
    "image/jpeg": jpeg(),
    "image/png": png(),
    "video/mp4": MP4,
    "application/pdf": b"%PDF-1.7 " + b"x" * 40,
    "audio/mpeg": MP3,
}


def upload(county: County, *parts: bytes, who: str = "resident") -> Any:
    asked = [attachment_pb2.UploadAttachmentRequest(parent=PARENT, content={"data": parts[0]})]
    asked += [attachment_pb2.UploadAttachmentRequest(content={"data": part}) for part in parts[1:]]
    path = county.contract.methods["UploadAttachment"].path
    headers = {"authorization": f"Bearer {county.token(who)}"}
    raw = iter([request.SerializeToString() for request in asked])
    return attachment_pb2.Attachment.FromString(county.chain.answer(rpc.Incoming(path, raw, headers)))


def download(county: County, who: str, name: str, digest: str, method: str = "DownloadReportPhoto") -> bytes:
    request = county.contract.methods[method].request(name=name, sha256=digest)  # type: ignore[call-arg]
    path = county.contract.methods[method].path
    headers = {"authorization": f"Bearer {county.token(who)}"}
    answers = county.chain.answer(rpc.Incoming(path, request.SerializeToString(), headers))
    response = county.contract.methods[method].response
    return b"".join(response.FromString(raw).data for raw in answers)  # type: ignore[attr-defined]


class TestUpload:
    @pytest.mark.parametrize("kind", FILES)
    def test_goes_by_content_and_keeps_nothing_of_place_or_author(self, county: County, kind: str) -> None:
        raw = FILES[kind]
        kept = upload(county, raw[:20], raw[20:])
        assert kept.media_type == kind
        report = file(county, photos=[kept])
        clean = download(county, "resident", report.name, kept.sha256)
        assert hashlib.sha256(clean).hexdigest() == kept.sha256
        assert len(clean) == kept.size_bytes
        assert (PLACE in clean) == (kind == "application/pdf" and PLACE in raw)

    def test_leaves_a_photo_the_right_way_up(self, county: County) -> None:
        for turned in (1, 6, 8):
            clean = b"".join(media.cleaned("image/jpeg", io.BytesIO(jpeg(turned))))
            assert (b"Exif\0\0" in clean) == (turned != 1)
            assert PLACE not in clean
            assert b"ICC_PROFILE" in clean

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"x",
            b"MZ" + bytes(90),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"PK\x03\x04" + bytes(50),
        ],
    )
    def test_refuses_what_is_no_kind_that_is_kept(self, county: County, raw: bytes) -> None:
        with pytest.raises(media.UnsupportedContent):
            upload(county, raw)
        assert (
            rows(county, "SELECT count(*) FROM mesh_attachment")[0][0] == 1
        )  # the one that every county has

    @pytest.mark.parametrize("raw", [jpeg()[:80], png()[:50], MP4[:40]])
    def test_refuses_what_breaks_off(self, county: County, raw: bytes) -> None:
        with pytest.raises(media.DamagedContent):
            upload(county, raw)

    def test_refuses_what_is_too_large_before_it_has_all_come(self, county: County) -> None:
        sent = 0

        def parts() -> Any:
            nonlocal sent
            for n in range(200):
                sent += 1
                content = {"data": jpeg()[:50] if n == 0 else bytes(media.MIB)}
                yield attachment_pb2.UploadAttachmentRequest(
                    parent="" if n else PARENT, content=content
                ).SerializeToString()

        path = county.contract.methods["UploadAttachment"].path
        headers = {"authorization": f"Bearer {county.token('resident')}"}
        with pytest.raises(media.TooLarge):
            county.chain.answer(rpc.Incoming(path, parts(), headers))
        assert sent < 25

    def test_of_the_same_content_is_one_file(self, county: County) -> None:
        assert upload(county, FILES["image/png"]) == upload(county, FILES["image/png"], who="village")
        assert len(list((county.folder / "data/attachments").glob("*/*"))) == 2

    def test_must_have_come_before_a_record_names_it(self, county: County) -> None:
        kept = upload(county, FILES["image/png"])
        for change in ({"sha256": "b" * 64}, {"size_bytes": 1}, {"media_type": "image/jpeg"}):
            said = {
                "sha256": kept.sha256,
                "size_bytes": kept.size_bytes,
                "media_type": kept.media_type,
                **change,
            }
            with pytest.raises(errors.Invalid, match=r"report\.photos"):
                file(county, photos=[said])


class TestDownload:
    def test_of_a_photo_is_for_its_handlers_and_its_reporter(self, county: County) -> None:
        name = reach(county, "ASSIGNED", photos=[PHOTO]).name
        digest = str(PHOTO["sha256"])
        for who in ("resident", "county", "inspector", "village"):
            assert download(county, who, name, digest) == sample.PHOTO
        for who in ("neighbour", "town", "other_town", "auditor"):
            with pytest.raises(errors.Forbidden):
                download(county, who, name, digest)

    def test_of_a_released_copy_is_for_all_who_may_see_the_report(self, county: County) -> None:
        name = reach(county, "ASSIGNED", photos=[PHOTO]).name
        redacted = upload(county, FILES["image/png"], who="county")
        with pytest.raises(errors.NotFound):
            download(county, "town", name, redacted.sha256, "DownloadReportEvidence")
        request = pb.ReleaseReportPhotoRequest(name=name, sha256=str(PHOTO["sha256"]), redacted=redacted)
        county.call("county", request)
        assert download(county, "town", name, redacted.sha256, "DownloadReportEvidence")
        with pytest.raises(errors.NotFound):  # the photo itself stays where it was
            download(county, "town", name, str(PHOTO["sha256"]), "DownloadReportEvidence")

    def test_of_a_file_that_another_record_refers_to_is_not_found(self, county: County) -> None:
        kept = upload(county, FILES["image/png"])
        file(county, photos=[kept])
        other = file(county)
        with pytest.raises(errors.NotFound):
            download(county, "resident", other.name, kept.sha256)


class TestCollection:
    def test_deletes_what_nothing_refers_to_after_a_day(self, county: County) -> None:
        kept, used = upload(county, FILES["image/png"]), upload(county, FILES["video/mp4"])
        report = file(county, photos=[used])
        county.pass_time(hours=23)
        assert attachments.collect(county.store, county.now) == 0
        county.store.kept_files[kept.sha256] = {"media_type": "image/png", "size_bytes": kept.size_bytes}
        county.pass_time(hours=2)
        assert attachments.collect(county.store, county.now) == 2  # with the one that every county has
        assert download(county, "resident", report.name, used.sha256)
        with pytest.raises(errors.Invalid, match="was not uploaded"):
            file(county, photos=[kept])

    def test_counts_its_day_from_the_last_upload(self, county: County) -> None:
        kept = upload(county, FILES["image/png"])
        county.pass_time(hours=23)
        upload(county, FILES["image/png"])
        county.pass_time(hours=23)
        attachments.collect(county.store, county.now)
        assert file(county, photos=[kept]).photos

    def test_takes_what_was_erased(self, county: County) -> None:
        kept = upload(county, FILES["image/png"])
        name = file(county, photos=[kept]).name
        take(county, "reject", name)
        county.call("resident", pb.EraseReportRequest(name=name, purpose="本人申请"))
        county.pass_time(hours=25)
        attachments.collect(county.store, county.now)
        assert not list((county.folder / "data/attachments").glob(f"*/{kept.sha256}"))


class TestExtension:
    def test_moves_the_limit_once_when_somebody_else_approves(self, county: County) -> None:
        report = reach(county, "IN_PROGRESS")
        asked = pb.RequestReportExtensionRequest(name=report.name, reason="连续降雨")
        decide = pb.DecideReportExtensionRequest(name=report.name, approve=True)
        with pytest.raises(report_flow.NoExtensionAsked):
            county.call("county", decide)
        with pytest.raises(errors.Forbidden):
            county.call("county", asked)  # not the handling unit
        before = county.call("village", asked)
        assert before.due_time == report.due_time
        with pytest.raises(report_flow.ExtensionAlreadyAsked):
            county.call("village", asked)
        with pytest.raises(errors.Forbidden):
            county.call("town", decide)
        moved = county.call("county", decide)
        gained = resources.moment(moved.due_time) - resources.moment(report.due_time)
        assert gained == datetime.timedelta(days=14)  # ten working days
        with pytest.raises(report_flow.NoExtensionAsked):
            county.call("county", decide)
        assert [s.action for s in steps(county, report.name)][-2:] == [
            "request_extension",
            "approve_extension",
        ]

    def test_of_one_s_own_is_not_one_s_to_decide(self, county: County) -> None:
        unit = {"unit": "91360423TE5T000169", "level": 3}
        report = reach(county, "ACCEPTED")
        take(county, "assign", report.name, **unit)
        county.call("county", pb.RequestReportExtensionRequest(name=report.name, reason="连续降雨"))
        decide = pb.DecideReportExtensionRequest(name=report.name, approve=False)
        with pytest.raises(errors.Forbidden, match="same person"):
            county.call("county", decide)
        refused = county.call("county_2", decide)
        assert refused.due_time == county.call("county", pb.GetReportRequest(name=report.name)).due_time


class TestBatches:
    def test_get_several_in_the_order_asked_or_none(self, county: County) -> None:
        names = [file(county).name for _ in range(3)]
        request = pb.BatchGetReportsRequest(parent=PARENT, names=[names[2], names[0]])
        assert [r.name for r in county.call("county", request).reports] == [names[2], names[0]]
        request.names.append(f"{PARENT}/reports/00000000-0000-4000-8000-000000000000")
        with pytest.raises(errors.NotFound):
            county.call("county", request)
        with pytest.raises(errors.Forbidden):
            county.call("neighbour", pb.BatchGetReportsRequest(parent=PARENT, names=names))

    def test_file_several_and_a_rerun_adds_nothing(self, county: County) -> None:
        report = file(county)
        ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(3)]

        def request(**more: Any) -> Any:
            many = [pb.FileReportRequest(parent=PARENT, report=report, report_id=i) for i in ids]
            return pb.BatchFileReportsRequest(parent=PARENT, requests=many, **more)

        first = county.call("village", request())
        assert [r.report.name[-1] for r in first.results] == ["0", "1", "2"]
        assert {r.report.state for r in first.results} == {pb.Report.STATE_REPORTED}
        again = county.call("village", request())
        assert {r.WhichOneof("outcome") for r in again.results} == {"refusal"}
        with pytest.raises(errors.AlreadyExists):
            county.call("village", request(all_or_nothing=True))
        assert rows(county, "SELECT count(*) FROM reports")[0][0] == 4

    def test_clears_what_only_the_service_sets(self, county: County) -> None:
        forged = pb.Report(state=pb.Report.STATE_CLOSED, reporter="somebody", score=99)
        forged.MergeFrom(pb.Report(category=1, description="x", division=file(county).division,
                                   location={"latitude": 29.26, "longitude": 115.1}))  # fmt: skip
        inner = pb.FileReportRequest(parent=PARENT, report=forged)
        answer = county.call("village", pb.BatchFileReportsRequest(parent=PARENT, requests=[inner]))
        filed = answer.results[0].report
        assert (filed.state, filed.score) == (pb.Report.STATE_REPORTED, 0)
