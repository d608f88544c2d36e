"""A batch of another node's log becomes a copy (I2), and grants become the right to write (I3): each event
once, nothing backwards, nothing foreign; on both databases."""

import zlib
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import copies, resources
from mesh.ownership import Grant
from tests.county import REGION, County
from village.habitat.v1 import events_pb2
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import link_pb2

OTHER = "360424"
SUBJECT = "village.36.04.24.habitat.report.filed"


def named(number: int, region: str = OTHER) -> str:
    return f"regions/{region}/reports/01a21319-0e3c-7aac-b5ba-{number:012d}"


def line(number: int, record: int | None = None, version: int = 1, **more: Any) -> link_pb2.LogRow:
    """A row of the log: its record is filed, or filed at a later version."""
    name = named(number if record is None else record)
    report = pb.Report(
        name=name, etag=str(version), category=pb.Report.CATEGORY_WASTE, division=f"{OTHER}100201",
        location={"latitude": 29.26, "longitude": 115.09}, state=pb.Report.STATE_REPORTED,
    )  # fmt: skip
    usual: dict[str, Any] = {
        "number": number, "event_id": f"e{number}", "type": events_pb2.ReportFiled.DESCRIPTOR.full_name,
        "subject": SUBJECT, "name": name, "time": resources.stamp(resources.utcnow()),
        "payload": events_pb2.ReportFiled(report=report).SerializeToString(),
    }  # fmt: skip
    return link_pb2.LogRow(**{**usual, **more})


def batch(*lines: link_pb2.LogRow, epoch: int = 1, incarnation: int = 1) -> link_pb2.PullLogResponse:
    raw = zlib.compress(link_pb2.LogRows(rows=lines).SerializeToString())
    high = lines[-1].number if lines else 0
    return link_pb2.PullLogResponse(
        epoch=epoch, incarnation=incarnation, rows=raw, high_water=high,
        read_time=resources.stamp(resources.utcnow()),
    )  # fmt: skip


def rows(county: County, table: sa.Table) -> list[Any]:
    """All that a table holds."""
    return list(county.store.database.select(table.select()))


def versions(county: County) -> dict[str, int]:
    t = county.store.codec(pb.Report).table
    found = county.store.database.select(sa.select(t.c.name, t.c.version).where(t.c.region == OTHER))
    return {name: version for name, version in found}  # noqa: C416 - rows, not pairs


def logged(county: County) -> list[tuple[int, str, str | None]]:
    """Number, event and why not, of what is republished."""
    found = [r for r in rows(county, county.store.plumbing.outbox) if r.region == OTHER]
    return sorted((r.number, r.event_id, r.void) for r in found)


class TestApply:
    def test_takes_records_events_and_moves_the_cursor_together(self, county: County) -> None:
        kept = copies.Copies(county.store)
        assert kept.apply(OTHER, OTHER, batch(line(1), line(2), line(3, 1, 2))) == 3
        assert versions(county) == {named(1): 2, named(2): 1}
        assert logged(county) == [(1, "e1", None), (2, "e2", None), (3, "e3", None)]
        assert kept.cursor(OTHER) == copies.Cursor(1, 1, 3, 3)

    def test_refuses_what_is_double_or_has_a_gap(self, county: County) -> None:
        kept = copies.Copies(county.store)
        kept.apply(OTHER, OTHER, batch(line(1), line(2)))
        before = versions(county), logged(county), kept.cursor(OTHER)
        for numbers in ((1, 2), (2, 3), (4,), (5,), (3, 5), (3, 3)):
            with pytest.raises(copies.BadBatch, match="belongs"):
                kept.apply(OTHER, OTHER, batch(*(line(n, n + 10) for n in numbers)))
            assert (versions(county), logged(county), kept.cursor(OTHER)) == before

    def test_refuses_an_earlier_log_and_begins_a_later_one_at_one(self, county: County) -> None:
        kept = copies.Copies(county.store)
        kept.apply(OTHER, OTHER, batch(line(1), epoch=2, incarnation=2))
        for epoch, incarnation in ((1, 3), (2, 1)):
            with pytest.raises(copies.BadBatch, match="behind"):
                kept.apply(OTHER, OTHER, batch(line(1, 9), epoch=epoch, incarnation=incarnation))
        with pytest.raises(copies.BadBatch, match="belongs"):
            kept.apply(OTHER, OTHER, batch(line(2), epoch=3))
        kept.apply(OTHER, OTHER, batch(line(1, 5), epoch=3))
        assert kept.cursor(OTHER) == copies.Cursor(3, 1, 1, 1)
        assert versions(county) == {named(1): 1, named(5): 1}

    def test_takes_no_version_back(self, county: County) -> None:
        kept = copies.Copies(county.store)
        kept.apply(OTHER, OTHER, batch(line(1, 1, 5)))
        kept.apply(OTHER, OTHER, batch(line(2, 1, 4), line(3, 2, 7), line(4, 2, 6)))
        assert versions(county) == {named(1): 5, named(2): 7}
        assert [why for _, _, why in logged(county)] == [None, None, None, "BACKWARDS"]
        (at,) = rows(county, county.store.plumbing.cursor)
        assert (at.number, at.refused) == (4, 2)

    def test_voids_what_it_cannot_take_and_goes_on(self, county: County) -> None:
        elsewhere = events_pb2.ReportFiled(report={"name": named(8)}).SerializeToString()
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"name": named(1, REGION)}, "FOREIGN"),
            ({"subject": "village.36.04.23.habitat.report.filed"}, "FOREIGN"),
            ({"subject": "village.36.04.24.emergency.alert.filed"}, "FOREIGN"),
            ({"payload": b"\xff\xff\xff"}, "MALFORMED"),
            ({"payload": b""}, "MALFORMED"),
            ({"payload": elsewhere}, "MALFORMED"),
            ({"void": "TOO_LARGE", "payload": b""}, "TOO_LARGE"),
        ]
        before = len(rows(county, county.store.codec(pb.Report).table))
        refused = [line(n, **fields) for n, (fields, _) in enumerate(wrong, 1)]
        copies.Copies(county.store).apply(OTHER, OTHER, batch(*refused, line(8)))
        assert [why for _, _, why in logged(county)] == [*(why for _, why in wrong), None]
        assert versions(county) == {named(8): 1}
        assert len(rows(county, county.store.codec(pb.Report).table)) == before + 1
        told = [r.subject for r in rows(county, county.store.plumbing.outbox) if r.region == OTHER]
        assert all(subject.startswith("village.36.04.24.habitat.") for subject in told)

    def test_keeps_and_passes_on_what_a_newer_contract_says(self, county: County) -> None:
        newer = line(1, type="village.habitat.v9.ReportSung", payload=b"\x12\x03abc")
        copies.Copies(county.store).apply(OTHER, OTHER, batch(newer, line(2)))
        assert logged(county) == [(1, "e1", None), (2, "e2", None)]
        (kept,) = [r for r in rows(county, county.store.plumbing.outbox) if r.event_id == "e1"]
        assert (kept.type, bytes(kept.payload)) == ("village.habitat.v9.ReportSung", b"\x12\x03abc")
        assert versions(county) == {named(2): 1}

    @pytest.mark.parametrize("begun", [False, True])
    def test_by_two_at_once_counts_once(
        self, county: County, monkeypatch: pytest.MonkeyPatch, begun: bool
    ) -> None:
        first, second = copies.Copies(county.store), copies.Copies(county.store)
        if begun:
            first.apply(OTHER, OTHER, batch(line(1)))
        at = second.cursor(OTHER)
        monkeypatch.setattr(second, "cursor", lambda _region: at)
        number = at.number + 1
        first.apply(OTHER, OTHER, batch(line(number)))
        before = versions(county), logged(county)
        with pytest.raises(copies.BadBatch, match="moved the cursor"):
            second.apply(OTHER, OTHER, batch(line(number, 9, event_id="other")))
        assert (versions(county), logged(county)) == before

    def test_writes_nothing_over_what_has_become_this_node_s_own(self, county: County) -> None:
        kept, own = copies.Copies(county.store), county.store.plumbing.ownership
        kept.apply(OTHER, OTHER, batch(line(1)))
        granted = {"region": OTHER, "domain": "habitat", "epoch": 2, "incarnation": 1, "frozen": False}
        county.store.database.change(own.insert().values(granted))  # by another process: not read yet
        with pytest.raises(copies.BadBatch, match="owner"):
            kept.apply(OTHER, OTHER, batch(line(2, 1, 2)))
        assert versions(county) == {named(1): 1}
        assert kept.cursor(OTHER).number == 1

    def test_never_shortens_a_log_that_is_its_own_of_an_earlier_time(self, county: County) -> None:
        relay = county.store.plumbing.relay
        longer = {"region": OTHER, "epoch": 1, "incarnation": 1, "fence": 3, "numbered": 8, "published": 8}
        county.store.database.change(relay.insert().values(longer))
        copies.Copies(county.store).apply(OTHER, OTHER, batch(line(1), line(2)))
        assert [r.numbered for r in rows(county, relay) if r.region == OTHER] == [8]

    def test_begins_a_log_that_has_no_event_yet(self, county: County) -> None:
        """Else the relay would not look for it when its first event comes."""
        before = county.store.copied
        copies.Copies(county.store).apply(OTHER, OTHER, batch(epoch=4))
        assert county.store.copied > before
        assert Grant(OTHER, "habitat", 4, 1) in county.store.other_logs()


class View:
    """A directory with one pair in it."""

    def __init__(self, node: str, epoch: int) -> None:
        self._node, self._epoch = node, epoch

    def regions(self) -> list[str]:
        return [REGION]

    def owner(self, _region: str, _domain: str) -> str:
        return self._node

    def epoch(self, _region: str, _domain: str) -> int:
        return self._epoch


class TestAdopt:
    def adopted(self, county: County, *granted: tuple[str, int]) -> tuple[int, bool]:
        """Epoch and whether it is frozen, after these directories one after the other."""
        for node, epoch in granted:
            view: Any = View(node, epoch)
            county.store.grants.adopt(view, REGION)
        row = county.store.grants.row(REGION)
        assert county.store.grants.owned(REGION) == (not row.frozen)
        return row.epoch, bool(row.frozen)

    @pytest.mark.parametrize(
        ("granted", "then"),
        [
            ([(REGION, 1)], (1, False)),
            ([(REGION, 5)], (5, False)),
            ([("360000", 2)], (1, True)),
            ([("360000", 2), (REGION, 3)], (3, False)),
            ([("360000", 2), (REGION, 3), ("360000", 2)], (3, False)),  # an older directory
            ([(REGION, 3), (REGION, 2)], (3, False)),
            ([(REGION, 3), ("360000", 1)], (3, False)),
            ([("360000", 4), (REGION, 1)], (1, True)),
        ],
    )
    def test_follows_the_latest_epoch_only(
        self, county: County, granted: list[tuple[str, int]], then: tuple[int, bool]
    ) -> None:
        assert self.adopted(county, *granted) == then

    def test_thaws_nothing_that_is_frozen_at_the_same_epoch(self, county: County) -> None:
        county.store.grants.freeze(REGION)
        assert self.adopted(county, (REGION, 1)) == (1, True)
        assert self.adopted(county, (REGION, 2)) == (2, False)

    def test_begins_each_epoch_with_its_first_incarnation(self, county: County) -> None:
        t = county.store.plumbing.ownership
        county.store.database.change(t.update().values(incarnation=4))
        self.adopted(county, (REGION, 1))
        assert county.store.grants.row(REGION).incarnation == 4
        self.adopted(county, (REGION, 2))
        assert county.store.grants.row(REGION).incarnation == 1
