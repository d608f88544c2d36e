"""Working days (工作日): versioned calendars, and limits counted on them. Separate from flows, because
statistics and duties count the same days."""

import dataclasses
import datetime
import functools
import zoneinfo
from typing import Any

import chinese_calendar
from google.type import date_pb2

from mesh import resources
from village.mesh.v1 import calendar_pb2

CHINA = zoneinfo.ZoneInfo("Asia/Shanghai")


@dataclasses.dataclass(frozen=True)
class Year:
    """One year as it was announced, or provisionally Monday to Friday."""

    provisional: bool = True
    days_off: frozenset[datetime.date] = frozenset()
    working_weekend_days: frozenset[datetime.date] = frozenset()

    def works(self, day: datetime.date) -> bool:
        if day.weekday() >= 5:
            return day in self.working_weekend_days
        return day not in self.days_off


_UNANNOUNCED = Year()


@dataclasses.dataclass(frozen=True)
class Calendar:
    """The years known. A year that is not known counts as not announced."""

    years: dict[int, Year]

    def due(self, start: datetime.datetime, span: int | datetime.timedelta) -> tuple[datetime.datetime, bool]:
        """The end of a limit, and whether it counts days of a year not announced yet. Of working days the
        day of `start` (UTC+8) does not count, and the last one ends at its midnight; natural time just
        passes. Aware, in UTC."""
        if isinstance(span, datetime.timedelta):
            return start.astimezone(datetime.UTC) + span, False
        day, provisional = start.astimezone(CHINA).date(), False
        left = span
        while left > 0:
            day += datetime.timedelta(days=1)
            works, unsure = self._works(day)
            provisional = provisional or unsure
            left -= works
        midnight = datetime.datetime.combine(day + datetime.timedelta(days=1), datetime.time(), CHINA)
        return midnight.astimezone(datetime.UTC), provisional

    def working_days(self, start: datetime.datetime, end: datetime.datetime) -> int:
        """How many working days lie behind the day of `start`, up to that of `end` (UTC+8)."""
        first, last = start.astimezone(CHINA).date(), end.astimezone(CHINA).date()
        days = (first + datetime.timedelta(days=n) for n in range(1, (last - first).days + 1))
        return sum(self._works(day)[0] for day in days)

    def _works(self, day: datetime.date) -> tuple[bool, bool]:
        year = self.years.get(day.year, _UNANNOUNCED)
        return year.works(day), year.provisional


def announced(year: int) -> calendar_pb2.Calendar:
    """A year as `chinesecalendar` has it, provisional when it does not yet."""
    found, works = calendar_pb2.Calendar(year=year), _worked_days(year)
    if works is None:
        found.provisional = True
        found.source = "not announced yet: Monday to Friday"
        return found
    found.source = "State Council notice on holidays, as chinesecalendar holds it"
    found.days_off.extend(_date(day) for day, work in works.items() if day.weekday() < 5 and not work)
    found.working_weekend_days.extend(
        _date(day) for day, work in works.items() if day.weekday() >= 5 and work
    )
    return found


@functools.cache
def _worked_days(year: int) -> dict[datetime.date, bool] | None:
    """Which days of a year are worked; None while nobody has said so."""
    days = [datetime.date(year, 1, 1) + datetime.timedelta(days=n) for n in range(366)]
    try:
        return {day: chinese_calendar.is_workday(day) for day in days if day.year == year}
    except NotImplementedError:
        return None


def of(messages: list[Any]) -> Calendar:
    """The calendar that stored `Calendar` messages make up; of a year's editions the last counts."""
    return Calendar(
        {
            m.year: Year(
                m.provisional, frozenset(map(_day, m.days_off)), frozenset(map(_day, m.working_weekend_days))
            )
            for m in sorted(messages, key=lambda m: m.edition)
        }
    )


def renewed(
    stored: list[Any], *, region: str, now: datetime.datetime, known: Any = announced
) -> list[calendar_pb2.Calendar]:
    """What is to be stored: last, this and the next two years where absent, and years that were
    provisional and are announced now, as the next edition. `known` gives a year."""
    have = {m.year: m for m in sorted(stored, key=lambda m: m.edition)}
    found = []
    for year in range(now.year - 1, now.year + 3):
        if year in have and not have[year].provisional:
            continue
        fresh = known(year)
        if year in have and fresh.provisional:
            continue
        fresh.edition = have[year].edition + 1 if year in have else 1
        fresh.name = f"regions/{region}/calendars/{year}-{fresh.edition}"
        fresh.issue_time.CopyFrom(resources.stamp(now))
        found.append(fresh)
    return found


def _date(day: datetime.date) -> date_pb2.Date:
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)


def _day(date: Any) -> datetime.date:
    return datetime.date(date.year, date.month, date.day)
