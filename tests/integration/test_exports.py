"""What a region's export holds, from one store into another, between both kinds of database: the same sums,
the same answers to the same people."""

import hashlib
import json
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import attachments, errors, exports, moving
from tests.county import REGION, County
from tests.integration.test_report_files import download, upload
from tests.loop import PARENT, file, reach, steps, take
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import handover_pb2

CONTENT = b"%PDF-1.7 " + hashlib.sha256(b"x").digest() * 20_000


@pytest.fixture
def other(tmp_path: pathlib.Path) -> Iterator[County]:
    """Another node's store, with other keys, on SQLite."""
    (tmp_path / "other").mkdir()
    found = County(tmp_path / "other", f"sqlite:///{tmp_path}/other/{{domain}}.db")
    yield found
    found.close()


def rows(county: County, table: sa.Table) -> list[Any]:
    """All that a table holds."""
    return list(county.store.database.select(table.select()))


def copy(giver: County, receiver: County) -> int:
    """Copies a region as two nodes do, page by page; how many pages."""
    cursor, pages = "", 0
    while True:
        asked, (kind, lines, cursor) = cursor, exports.page(giver.store, REGION, cursor)
        exports.put(receiver.store, REGION, asked, (kind, json.loads(json.dumps(lines)), cursor))
        pages += 1
        if not cursor:
            return pages


class TestExport:
    def test_is_the_same_in_the_other_store_and_back(self, county: County, other: County) -> None:
        kept = upload(county, CONTENT[:1000], CONTENT[1000:])
        for state in ("REPORTED", "IN_PROGRESS", "ASSESSED"):
            reach(county, state)
        name = file(county, photos=[kept], contact={"person_name": "喻楚楚", "phone": "13870001234"}).name
        once = pb.FileReportRequest(parent=PARENT, request_id=str(uuid.uuid4()))
        once.report.CopyFrom(county.row(name).message)
        first = county.call("resident", once)
        row, history = county.row(name), steps(county, name)
        sums = exports.total(county.store, REGION)
        assert exports.total(other.store, REGION) != sums
        trail = sorted(r.digest for r in rows(county, county.store.plumbing.audit) if r.result == "OK")

        for giver, receiver in ((county, other), (other, county)):
            copy(giver, receiver)
            assert exports.total(receiver.store, REGION) == sums
            there = receiver.row(name)
            assert (there.message, there.owner, there.alarm, there.version, there.digest) == (
                row.message, row.owner, row.alarm, row.version, row.digest,
            )  # fmt: skip
            assert steps(receiver, name) == history
            assert download(receiver, "resident", name, kept.sha256) == CONTENT
            count = len(receiver.store.database.select(sa.select(receiver.store.codec(pb.Report).table)))
            assert receiver.call("resident", once) == first
            table = receiver.store.codec(pb.Report).table
            assert len(receiver.store.database.select(sa.select(table))) == count
            mine = receiver.call("resident", pb.ListReportsRequest(parent=PARENT)).reports
            assert name in [r.name for r in mine]
            found = [r.digest for r in rows(receiver, receiver.store.plumbing.audit)]
            assert [d for d in trail if found.count(d) != 1] == []

    def test_written_twice_is_there_once(self, county: County, other: County) -> None:
        reach(county, "IN_PROGRESS")
        copy(county, other)
        copy(county, other)
        assert exports.total(other.store, REGION) == exports.total(county.store, REGION)

    @pytest.mark.parametrize("change", ["alarm_time", "owner", "digest", "version"])
    def test_sums_differ_when_anything_does(self, county: County, other: County, change: str) -> None:
        name = file(county).name
        copy(county, other)
        t = other.store.codec(pb.Report).table
        now = other.store.instant(other.now)
        value = {"alarm_time": now, "version": 9}.get(change, "x")
        other.store.database.change(t.update().where(t.c.name == name).values({change: value}))
        assert exports.total(other.store, REGION) != exports.total(county.store, REGION)

    def test_sums_of_stretches_are_the_sum_of_the_whole(self, county: County) -> None:
        for _ in range(3):
            file(county)
        rows, digest, cursor, stretches = 0, "", "", 0
        while not stretches or cursor:
            more, digest, cursor = exports.stretch(county.store, REGION, cursor, digest, 1e-9)
            rows, stretches = rows + more, stretches + 1
        assert (rows, digest) == exports.total(county.store, REGION)
        assert stretches > 5

    def test_of_a_file_that_breaks_off_begins_again(self, county: County, other: County) -> None:
        kept = upload(county, CONTENT)
        file(county, photos=[kept])
        _, _, cursor = exports.page(county.store, REGION, f"{exports.FILES}|")
        kind, second, _ = exports.page(county.store, REGION, cursor)
        assert second[0]["at"] > 0
        with pytest.raises(errors.Conflict):  # it was started anew: what came before is gone
            exports.write(other.store, REGION, kind, second)
        assert attachments.trouble(other.store, kept)

    def test_leaves_only_what_may_leave(self, county: County) -> None:
        words = "院子后面的沟里"
        name = file(county, description=words, contact={"person_name": "喻楚楚"}).name
        take(county, "accept", name)
        before = county.row(name)
        assert before.alarm
        county.store.grants.freeze(REGION)
        exports.reduce(county.store, REGION)
        after = county.row(name)
        assert (after.owner, after.alarm, after.version, after.digest) == (
            "", None, before.version, before.digest,
        )  # fmt: skip
        assert not after.message.description
        assert "楚楚" not in after.message.contact.person_name
        assert after.message.division == before.message.division
        assert {step.reason for step in county.store.history(name)} == {""}
        assert not rows(county, county.store.plumbing.request)

    def test_of_a_region_that_is_written_is_refused(self, county: County) -> None:
        asked = handover_pb2.ImportRegionRequest(parent=PARENT).SerializeToString()
        with pytest.raises(moving.NotFrozen):
            county.raw("ImportRegion", asked, county.as_node())
        with pytest.raises(errors.Invalid):
            exports.page(county.store, REGION, "nothing|")

    def test_begins_with_a_log_although_nobody_has_written(self, county: County) -> None:
        """The relay has not looked since the grant: without a log the receiver would wait for its end."""
        frozen = moving.freeze(county.store, REGION)
        logs = [
            (r.region, r.epoch, r.incarnation, r.numbered) for r in rows(county, county.store.plumbing.relay)
        ]
        assert logs == [(REGION, frozen.epoch, frozen.incarnation, 0)]

    @pytest.mark.parametrize("cursor", ["x", "../../etc/passwd", "files|x:y", "files|a:", "reports|\0"])
    def test_refuses_a_cursor_it_never_gave(self, county: County, cursor: str) -> None:
        for ask in (exports.page, lambda *it: exports.stretch(*it, "", 1.0)):
            with pytest.raises(errors.Invalid, match="cursor"):
                ask(county.store, REGION, cursor)
