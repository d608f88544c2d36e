"""Working days: limits counted over weekends, holidays, 调休 and the turn of a year."""

import datetime

import pytest

from mesh import calendar
from village.mesh.v1 import calendar_pb2

KNOWN = calendar.of([calendar.announced(year) for year in (2025, 2026)])


def at(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(f"{text}+08:00")


class TestDue:
    @pytest.mark.parametrize(
        ("start", "days", "last"),
        [
            ("2026-03-02 00:00", 1, "2026-03-03"),
            ("2026-03-02 23:59", 1, "2026-03-03"),
            ("2026-03-07 12:00", 1, "2026-03-09"),  # a Saturday
            ("2026-03-02 10:00", 60, "2026-05-28"),
            ("2026-09-30 10:00", 1, "2026-10-08"),
            ("2026-09-30 10:00", 3, "2026-10-10"),
            ("2026-10-09 10:00", 1, "2026-10-10"),
            ("2026-02-13 10:00", 2, "2026-02-24"),
            ("2025-12-31 10:00", 1, "2026-01-04"),  # a worked Sunday
        ],
    )
    def test_is_the_midnight_that_ends_the_last_working_day(self, start: str, days: int, last: str) -> None:
        due, provisional = KNOWN.due(at(start), days)
        assert due == at(f"{last} 00:00") + datetime.timedelta(days=1)
        assert due.tzinfo is datetime.UTC
        assert not provisional

    def test_counts_the_day_of_the_start_in_china_whatever_its_zone(self) -> None:
        utc = datetime.datetime(2026, 3, 2, 16, 30, tzinfo=datetime.UTC)  # already Tuesday in Wuning
        assert KNOWN.due(utc, 1)[0] == at("2026-03-05 00:00")

    def test_of_no_days_is_the_end_of_the_same_day(self) -> None:
        assert KNOWN.due(at("2026-03-02 10:00"), 0)[0] == at("2026-03-03 00:00")

    @pytest.mark.parametrize(("days", "provisional"), [(1, False), (2, True), (9, True)])
    def test_is_provisional_once_it_counts_a_year_not_announced(self, days: int, provisional: bool) -> None:
        assert KNOWN.due(at("2026-12-30 10:00"), days)[1] == provisional


class TestAnnounced:
    def test_of_2026_has_its_days_off_and_worked_weekends(self) -> None:
        found = calendar.announced(2026)
        assert not found.provisional
        assert [(d.month, d.day) for d in found.working_weekend_days] == [
            (1, 4), (2, 14), (2, 28), (5, 9), (9, 20), (10, 10),
        ]  # fmt: skip
        off = {(d.month, d.day) for d in found.days_off}
        assert {(1, 1), (2, 16), (2, 23), (10, 1), (10, 7)} <= off
        assert not off & {(2, 24), (10, 8)}

    def test_of_a_year_that_nobody_knows_is_provisional(self) -> None:
        found = calendar.announced(2099)
        assert (found.provisional, len(found.days_off)) == (True, 0)


class TestRenewed:
    NOW = datetime.datetime(2026, 12, 30, tzinfo=datetime.UTC)

    def renew(self, stored: list[calendar_pb2.Calendar], provisional: bool) -> list[tuple[int, int]]:
        def known(year: int) -> calendar_pb2.Calendar:
            return calendar_pb2.Calendar(year=year, provisional=provisional)

        found = calendar.renewed(stored, region="360423", now=self.NOW, known=known)
        assert all(c.name == f"regions/360423/calendars/{c.year}-{c.edition}" for c in found)
        return [(c.year, c.edition) for c in found]

    def test_starts_with_four_years(self) -> None:
        assert self.renew([], True) == [(2025, 1), (2026, 1), (2027, 1), (2028, 1)]

    def test_replaces_what_was_provisional_and_only_that(self) -> None:
        stored = [
            calendar_pb2.Calendar(year=year, edition=1, provisional=year >= 2027)
            for year in range(2025, 2029)
        ]
        assert self.renew(stored, True) == []
        assert self.renew(stored, False) == [(2027, 2), (2028, 2)]
