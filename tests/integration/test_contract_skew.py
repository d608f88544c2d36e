"""A county that runs a newer contract than its province: what the province does not know of it is kept and
passed on, and is there when the province is upgraded."""

import datetime
import hashlib
import zlib
from typing import Any

import sqlalchemy as sa

from mesh import copies, replication, resources
from tests.county import County
from village.habitat.v1 import events_pb2, report_pb2
from village.mesh.v1 import link_pb2

SIBLING = "360424"
NAME = f"regions/{SIBLING}/reports/019a0000-0000-7000-8000-000000000001"
NEWER = b"\xfa\xff\x01\x05later"
"""Field 4095 of a message, of which this contract knows nothing."""


def sent(version: int, *, kind: str = "village.habitat.v1.ReportFiled") -> tuple[link_pb2.LogRow, bytes]:
    """An event of a newer contract, and the bytes of the record in it."""
    report = report_pb2.Report(
        name=NAME, category="CATEGORY_WASTE", division=f"{SIBLING}100201", state="STATE_REPORTED",
        policy=f"regions/{SIBLING}/reportPolicies/x",
        location={"latitude": 29.0, "longitude": 115.0}, etag=str(version),
    )  # fmt: skip
    record = report.SerializeToString(deterministic=True) + NEWER
    event = events_pb2.ReportFiled()
    event.report.MergeFromString(record)
    payload = event.SerializeToString(deterministic=True) + NEWER
    row = link_pb2.LogRow(
        number=version, event_id=f"019a0000-0000-7000-8000-00000000000{version}", type=kind,
        subject=f"village.36.04.24.habitat.report.{kind.rpartition('Report')[2].lower()}", name=NAME,
        time=resources.stamp(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)), payload=payload,
    )  # fmt: skip
    return row, event.report.SerializeToString(deterministic=True)


def pulled(*rows: link_pb2.LogRow) -> link_pb2.PullLogResponse:
    answer = link_pb2.PullLogResponse(epoch=1, incarnation=1, high_water=len(rows), floor=1)
    answer.rows = zlib.compress(link_pb2.LogRows(rows=rows).SerializeToString())
    return answer


def kept(county: County) -> dict[int, Any]:
    outbox = county.store.plumbing.outbox
    rows = county.store.database.select(sa.select(outbox).where(outbox.c.region == SIBLING))
    return {row.number: row for row in rows}


def test_what_is_not_known_here_is_kept_and_passed_on(county: County) -> None:
    row, record = sent(1)
    assert copies.Copies(county.store).apply(SIBLING, SIBLING, pulled(row)) == 1
    assert bytes(kept(county)[1].payload) == row.payload
    codec = county.store.codec(report_pb2.Report)
    copy = county.store.row(codec, NAME)
    assert copy is not None
    assert (copy.message.division, copy.version) == (f"{SIBLING}100201", 1)
    assert copy.digest == hashlib.sha256(record).hexdigest()  # as the owner works it out, who knows the field
    (told,) = replication.digests(county.store, codec, SIBLING, "")
    assert (told.name, told.digest) == (NAME, copy.digest)


def test_a_kind_of_event_that_is_not_known_here_holds_up_nothing(county: County) -> None:
    later, _ = sent(2, kind="village.habitat.v1.ReportFramed")
    rows = [sent(1)[0], later, sent(3)[0]]
    assert copies.Copies(county.store).apply(SIBLING, SIBLING, pulled(*rows)) == 3
    found = kept(county)
    assert {n: row.type.rpartition(".")[2] for n, row in found.items()} == {
        1: "ReportFiled", 2: "ReportFramed", 3: "ReportFiled",
    }  # fmt: skip
    assert bytes(found[2].payload) == later.payload
    assert [row.void for row in found.values()] == [None] * 3
    copy = county.store.row(county.store.codec(report_pb2.Report), NAME)
    assert copy is not None
    assert copy.version == 3
