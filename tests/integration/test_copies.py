"""What a province takes of a county's log that holds what nobody should send: the rest is copied, and what
cannot be is refused by itself (I5)."""

import concurrent.futures
import contextlib
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from mesh import copies, resources
from tests.county import MONDAY, REGION, VILLAGE, County
from tests.waiting import until
from village.habitat.v1 import events_pb2, waste_pb2
from village.habitat.v1 import report_pb2 as pb
from village.mesh.v1 import link_pb2
from village.type.v1 import level_pb2

Spoiling = Callable[[link_pb2.LogRow, Any], None]
COUNT, BAD = 9, 5
LOG = "mesh_outbox WHERE epoch = 2"


def name(number: int) -> str:
    return f"regions/{REGION}/reports/019c0000-0000-7000-8000-{number:012d}"


def row(number: int, spoil: Spoiling | None = None) -> link_pb2.LogRow:
    """A row that says that a report was filed."""
    found = pb.Report(name=name(number), etag="1", category="CATEGORY_WASTE", division=VILLAGE)
    found.file_time.CopyFrom(resources.stamp(MONDAY))
    event = events_pb2.ReportFiled(report=found)
    event.step.number, event.step.level = 1, level_pb2.LEVEL_VILLAGE
    event.step.time.CopyFrom(resources.stamp(MONDAY))
    made = link_pb2.LogRow(
        number=number, event_id=f"e{number}", type=event.DESCRIPTOR.full_name, name=name(number),
        subject="village.36.04.23.habitat.report.filed", time=resources.stamp(MONDAY),
    )  # fmt: skip
    if spoil is not None:
        spoil(made, event)
    made.payload = event.SerializeToString()
    return made


def answer(spoil: Spoiling) -> link_pb2.PullLogResponse:
    rows = [row(n, spoil if n == BAD else None) for n in range(1, COUNT + 1)]
    return link_pb2.PullLogResponse(
        epoch=2, incarnation=1, high_water=COUNT, read_time=resources.stamp(MONDAY), floor=1,
        rows=zlib.compress(link_pb2.LogRows(rows=rows).SerializeToString()),
    )  # fmt: skip


def column(county: County, table: str, what: str, order: str) -> list[Any]:
    return [
        r[0] for r in county.store.database.select(sa.text(f"SELECT {what} FROM {table} ORDER BY {order}"))
    ]


@pytest.fixture
def county(county: County) -> County:
    """A node that owns the region no more, and so may hold a copy of it."""
    county.store.grants.freeze(REGION)
    return county


class TestRowsThatCannotBeWritten:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda _, event: setattr(event.report.file_time, "seconds", 10**15),
            lambda _, event: setattr(event.step.time, "seconds", -(10**15)),
            lambda _, event: setattr(event.report, "etag", str(10**30)),
            lambda _, event: setattr(event.report, "etag", "one"),
            lambda row, _: setattr(row.time, "seconds", 10**15),
        ],
        ids=["time", "step", "version", "etag", "row"],
    )
    def test_are_refused_and_the_others_copied(self, county: County, spoil: Spoiling) -> None:
        copy = copies.Copies(county.store)
        assert copy.apply(REGION, REGION, answer(spoil)) == COUNT
        assert copy.cursor(REGION) == copies.Cursor(2, 1, COUNT, COUNT)
        others = [name(n) for n in range(1, COUNT + 1) if n != BAD]
        assert column(county, "reports", "name", "name") == others
        voids = column(county, LOG, "void", "number")
        assert voids == ["MALFORMED" if n == BAD else None for n in range(1, COUNT + 1)]
        assert column(county, "mesh_cursor", "refused", "region") == [1]
        again = answer(spoil)
        with pytest.raises(copies.BadBatch):
            copy.apply(REGION, REGION, again)

    def test_that_only_one_database_cannot_write_hold_up_nothing(self, county: County) -> None:
        copy = copies.Copies(county.store)
        copy.apply(REGION, REGION, answer(lambda _, event: setattr(event.report, "policy", "a\0b")))
        assert copy.cursor(REGION).number == COUNT
        assert len(column(county, "reports", "name", "name")) >= COUNT - 1

    def test_are_not_those_of_a_later_contract(self, county: County) -> None:
        """A level that this node does not know is kept as its number."""
        copy = copies.Copies(county.store)
        copy.apply(REGION, REGION, answer(lambda _, event: setattr(event.step, "level", 99)))
        assert column(county, LOG, "void", "number") == [None] * COUNT
        assert len(column(county, "reports", "name", "name")) == COUNT
        (step,) = county.store.history(name(BAD))
        assert step.level == 99


def ticket(number: int, code: str = "", **more: Any) -> waste_pb2.WeighTicket:
    weights = {"gross_kg": 9000, "tare_kg": 5000, "net_kg": 4000, "etag": "1", **more}
    return waste_pb2.WeighTicket(
        name=f"regions/{REGION}/weighTickets/t{number}", division=VILLAGE,
        station=f"regions/{REGION}/transferStations/s1", number=code or f"n{number}", **weights,
    )  # fmt: skip


def weighed(*tickets: waste_pb2.WeighTicket) -> link_pb2.PullLogResponse:
    """A log that says that these were weighed."""
    rows = [
        link_pb2.LogRow(
            number=n, event_id=f"e{n}", type=waste_pb2.WeighTicketCreated.DESCRIPTOR.full_name, name=one.name,
            subject="village.36.04.23.habitat.weighTicket.created", time=resources.stamp(MONDAY),
            payload=waste_pb2.WeighTicketCreated(weigh_ticket=one).SerializeToString(),
        )
        for n, one in enumerate(tickets, 1)
    ]  # fmt: skip
    packed = zlib.compress(link_pb2.LogRows(rows=rows).SerializeToString())
    return link_pb2.PullLogResponse(
        epoch=2, incarnation=1, high_water=len(rows), read_time=resources.stamp(MONDAY), floor=1, rows=packed
    )


BREAKING = [ticket(BAD, net_kg=-1, tare_kg=9001), ticket(BAD, "n1")]


class TestRowsThatBreakARuleOfThisNode:
    """The owner's version of the contract may not have the rule yet, or no more."""

    @pytest.mark.parametrize("bad", BREAKING, ids=["check", "unique"])
    def test_are_refused_and_the_others_copied(
        self, county: County, bad: waste_pb2.WeighTicket, caplog: pytest.LogCaptureFixture
    ) -> None:
        copy = copies.Copies(county.store)
        sent = [bad if n == BAD else ticket(n) for n in range(1, COUNT + 1)]
        assert copy.apply(REGION, REGION, weighed(*sent)) == COUNT
        assert copy.cursor(REGION) == copies.Cursor(2, 1, COUNT, COUNT)
        others = [one.name for one in sent if one is not bad]
        assert column(county, "weigh_tickets", "name", "name") == others
        voids = column(county, LOG, "void", "number")
        assert voids == ["BREAKS_RULE" if n == BAD else None for n in range(1, COUNT + 1)]
        assert column(county, "mesh_cursor", "refused", "region") == [1]
        assert "an event cannot be written" in caplog.messages

    def test_hold_up_nothing_that_others_write_at_that_moment(self, county: County) -> None:
        """SQLite takes the writes of several callers into one transaction."""
        database, done = county.store.database, list[int]()
        copy, cursor = copies.Copies(county.store), county.store.plumbing.cursor
        other = cursor.update().where(cursor.c.region == REGION).values(trouble="seen")
        bad = weighed(ticket(1), ticket(2, "n1"))
        copy.apply(REGION, REGION, weighed())
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            with contextlib.ExitStack() as stack:
                if database.sqlite:
                    stack.enter_context(database._turns._turn)
                first = pool.submit(copy.apply, REGION, REGION, bad)
                if database.sqlite:
                    until(lambda: database._turns._waiting)
                second = pool.submit(lambda: done.append(database.change(other)))
                if database.sqlite:
                    until(lambda: len(database._turns._waiting) == 2)
            assert first.result(20) == 2
            second.result(20)
        assert done == [1]

    @pytest.mark.parametrize("bad", BREAKING, ids=["check", "unique"])
    def test_are_left_out_of_what_is_mended(self, county: County, bad: waste_pb2.WeighTicket) -> None:
        copy, codec = copies.Copies(county.store), county.store.codec(waste_pb2.WeighTicket)
        sent = [bad if n == BAD else ticket(n) for n in range(1, COUNT + 1)]
        there = copy.mend(codec, REGION, [one.SerializeToString() for one in sent])
        assert there == {one.name for one in sent if one is not bad}
        assert set(column(county, "weigh_tickets", "name", "name")) == there


class TestManyRows:
    """PostgreSQL takes them another way than a few."""

    def test_are_each_copied_once_but_for_the_one_that_cannot_be(self, county: County) -> None:
        copy, many = copies.Copies(county.store), 2 * copies.MANY
        copy.apply(REGION, REGION, weighed(ticket(1, etag="7"), ticket(2)))
        sent = [ticket(n, "n3" if n == 9 else "", gross_kg=9001, net_kg=4001) for n in range(1, many + 1)]
        again = weighed(ticket(1), ticket(2), *sent)
        again.epoch = 3
        assert copy.apply(REGION, REGION, again) == many + 2
        there = column(county, "weigh_tickets", "gross_kg", "name")
        assert (len(there), there.count(9000)) == (many - 1, 1)  # one is here in a later version
        assert column(county, "mesh_cursor", "number", "region") == [many + 2]
        voids = column(county, "mesh_outbox WHERE epoch = 3", "void", "number")
        assert [(n, why) for n, why in enumerate(voids, 1) if why] == [(11, "BREAKS_RULE")]


class TestSeveralEventsOfOneRecord:
    def test_leave_the_last_and_every_step(self, county: County) -> None:
        rows = []
        for number in (1, 2, 3):
            made = row(number)
            event = events_pb2.ReportFiled.FromString(made.payload)
            event.report.name, event.report.etag, event.step.number = name(1), str(number), number
            event.report.handling_unit_title = f"{number}"
            made.name, made.payload = name(1), event.SerializeToString()
            rows.append(made)
        several = link_pb2.PullLogResponse(
            epoch=2, incarnation=1, high_water=3, read_time=resources.stamp(MONDAY), floor=1,
            rows=zlib.compress(link_pb2.LogRows(rows=rows).SerializeToString()),
        )  # fmt: skip
        copies.Copies(county.store).apply(REGION, REGION, several)
        kept = county.row(name(1))
        assert (kept.version, kept.message.handling_unit_title) == (3, "3")
        assert [step.number for step in county.store.history(name(1))] == [1, 2, 3]
