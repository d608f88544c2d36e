"""What stations measure (监测数据): given out with what was found about it, corrected by versions, summed up
by hour and day; and each day that is over, for what goes up. SM-4's first half; the second: `exceedances`."""

import dataclasses
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mesh import calls, errors, lists, records, resources, store
from services.habitat import alarms, intake, series, series_tables, tables
from services.habitat.figures import Figure
from services.habitat.series import BEIJING_MS, DAY_MS, HOUR_MS
from village.habitat.v1 import reading_pb2 as pb
from village.habitat.v1.reading_pb2 import ReadingCorrection, StationDay
from village.habitat.v1.station_pb2 import Station

LONGEST_DAYS = 400
"""Over how many days sums are asked for."""
MOST_READINGS, MOST_SUMS = 10_000, 400_000
LATE = datetime.timedelta(minutes=10)
"""How long after midnight a day is summed up."""

SILENT_DAYS = 40
"""How far back silent days are noted, when a node was away for long."""

# handlers


def stream_readings(
    requests: Iterator[pb.StreamReadingsRequest], call: calls.Call
) -> pb.StreamReadingsResponse:
    """Each message is a commit of its own: what was taken stays when the next is refused."""
    whole, region = intake.Taken(), ""
    for request in requests:
        region = region or resources.region_in(request.parent)
        if resources.region_in(request.station) != region:
            raise errors.Invalid("station", f"is not one of regions/{region}")
        station = call.load(Station, request.station)
        if call.changes.role == "DEV" and station.device != call.caller.subject:
            raise errors.Forbidden(method=call.method.name, why="the station is another device's")
        one = intake.of(call.store).take(station, request.series, call.now)
        whole.taken, whole.repeated = whole.taken + one.taken, whole.repeated + one.repeated
        whole.invalid.update(one.invalid)
    return pb.StreamReadingsResponse(
        taken_count=whole.taken, repeated_count=whole.repeated,
        invalid=[pb.InvalidReadings(reason=why, count=n) for why, n in sorted(whole.invalid.items())],
    )  # fmt: skip


def list_readings(request: pb.ListReadingsRequest, call: calls.Call) -> pb.ListReadingsResponse:
    station = call.load(Station, request.parent)
    size = min(request.page_size or lists.DEFAULT_SIZE, MOST_READINGS)
    first = _ms(request.start_time) if request.HasField("start_time") else 0
    behind = _ms(request.end_time) if request.HasField("end_time") else 1 << 50
    first = max(first, lists.plain_token(call.store, request, call.method) + 1 if request.page_token else 0)
    number = series_tables.series_of(station.name, request.factor)
    rows = series_tables.readings(call.store, number, first, behind, size + 1)
    more, rows = len(rows) > size, rows[:size]
    answer = pb.ListReadingsResponse()
    if rows:
        corrected = _corrected(call.store, [station.name], request.factor, (rows[0][0], rows[-1][0] + 1))
        for time, value, flag, invalid in rows:
            reading = answer.readings.add(value=value, measured=value, flag=flag, invalid=invalid)
            reading.time.FromMilliseconds(time)
            if (found := corrected.get((station.name, time))) is not None:
                reading.corrections, changed = found
                reading.invalid = "CORRECTED" if changed is None else ""
                reading.value = value if changed is None else changed
    if more:
        answer.next_page_token = lists.token(call.store, call.method, request, [rows[-1][0]])
    return answer


def aggregate_readings(
    request: pb.AggregateReadingsRequest, call: calls.Call
) -> pb.AggregateReadingsResponse:
    span = {pb.STEP_DAY: DAY_MS, pb.STEP_WHOLE: 0}.get(request.step, HOUR_MS)
    first, behind = series.begin(_ms(request.start_time), span or HOUR_MS), _ms(request.end_time)
    if not first < behind <= first + LONGEST_DAYS * DAY_MS:
        raise errors.Invalid("end_time", f"is not later than start_time by at most {LONGEST_DAYS} days")
    seen, wanted = tables.seen_stations(call, Station, request.parent), set(request.stations)
    if wanted - set(seen):
        raise errors.NotFound(name=min(wanted - set(seen)))
    by_series = {
        series_tables.series_of(name, request.factor): name for name in seen if not wanted or name in wanted
    }
    answer = pb.AggregateReadingsResponse()
    for row in _Question(call.store, by_series, request.factor, first, behind, span).sums():
        number, start, count, valid, total, low, high = row
        one = answer.aggregates.add(station=by_series[number], count=count, valid_count=valid)
        one.mean, one.min, one.max = total / valid if valid else 0.0, low, high
        one.start_time.FromMilliseconds(start)
    return answer


Sums = tuple[int, int, int, int, float, float, float]
"""Series, start, count, valid, total, low, high."""


@dataclasses.dataclass(frozen=True)
class _Question:
    """What readings come to, in spans of an hour or a day, or with 0 in one."""

    opened: store.Store
    by_series: Mapping[int, str]
    factor: str
    first: int
    behind: int
    span: int

    def sums(self) -> list[Sums]:
        """By series and time. Spans in which something was corrected are added up anew."""
        rows = self._kept()
        if len(rows) > MOST_SUMS:
            raise errors.Invalid("end_time", f"asks for more than {MOST_SUMS} sums at once")
        corrected = _corrected(
            self.opened, list(self.by_series.values()), self.factor, (self.first, self.behind)
        )
        if not corrected:
            return rows
        numbers = {name: number for number, name in self.by_series.items()}
        spoilt = {
            (numbers[name], series.begin(time, self.span) if self.span else self.first)
            for name, time in corrected
        }
        return [self._anew(row, corrected) if row[:2] in spoilt else row for row in rows]

    def _kept(self) -> list[Sums]:
        numbers, hours, days = list(self.by_series), "reading_hours", "reading_days"
        if self.span:
            kind = days if self.span == DAY_MS else hours
            rows = series_tables.sums_of(self.opened, kind, numbers, self.first, self.behind)
            return [tuple(row) for row in rows]  # type: ignore[misc]
        # whole days by their own sums, what lies before and behind them by the hour
        begin = min(series.begin(self.first + DAY_MS - 1, DAY_MS), self.behind)
        end = max(series.begin(self.behind, DAY_MS), begin)
        parts = ((hours, self.first, begin), (days, begin, end), (hours, end, self.behind))
        found = [
            row
            for kind, start, behind in parts
            if start < behind
            for row in series_tables.sums_of(self.opened, kind, numbers, start, behind)
        ]
        return _added(found, self.first)

    def _anew(self, row: Sums, corrected: Mapping[tuple[str, int], tuple[int, float | None]]) -> Sums:
        number, start = row[:2]
        behind, kept = start + self.span if self.span else self.behind, []
        for time, value, _, invalid in series_tables.readings(self.opened, number, start, behind, 1 << 30):
            _, counts = corrected.get((self.by_series[number], time), (0, None if invalid else value))
            valid = counts is not None
            kept.append((number, start, 1, int(valid), *[counts if valid else 0.0] * 3))
        return _added(kept, start)[0]


def _added(parts: Sequence[Any], start: int) -> list[Sums]:
    whole: dict[int, list[Any]] = {}
    for number, _, count, valid, total, low, high in parts:
        known = whole.setdefault(number, [number, start, 0, 0, 0.0, 0.0, 0.0])
        if valid:
            known[5] = min(known[5], low) if known[3] else low
            known[6] = max(known[6], high) if known[3] else high
        known[2], known[3], known[4] = known[2] + count, known[3] + valid, known[4] + total
    return [tuple(known) for known in whole.values()]  # type: ignore[misc]


def _corrected(
    opened: store.Store, stations: Sequence[str], factor: str, between: tuple[int, int]
) -> dict[tuple[str, int], tuple[int, float | None]]:
    """By station and time: how often a reading was corrected, and the value in its place, None where it is
    not valid."""
    first, behind = (opened.instant(_moment(min(ms, 1 << 45))) for ms in between)
    rows = series_tables.corrections(opened, ReadingCorrection, (stations, factor), first, behind)
    return {
        (name, series_tables.ms_of(resources.when(time))): (number, value)
        for name, time, number, value in rows
    }


def correct_reading(request: pb.CorrectReadingRequest, call: calls.Call) -> ReadingCorrection:
    correction = request.reading_correction
    if resources.region_in(correction.station) != resources.region_in(request.parent):
        raise errors.Invalid("reading_correction.station", "is not a station of that region")
    time = _ms(correction.time)
    number = series_tables.series_of(correction.station, correction.factor)
    rows = series_tables.readings(call.store, number, time, time + 1, 1)
    if not rows:
        raise errors.Invalid("reading_correction.time", "is that of no reading of that station and factor")
    correction.measured = rows[0][1]
    correction.time.FromMilliseconds(time)
    known = _corrected(call.store, [correction.station], correction.factor, (time, time + 1))
    correction.number = known.get((correction.station, time), (0, None))[0] + 1
    correction.correct_time.CopyFrom(resources.stamp(call.now))
    made = call.create(correction, parent=request.parent, event=pb.ReadingCorrected)
    intake.of(call.store).days.add((correction.station, series.begin(time, DAY_MS)))
    return made


# days


def tick(_process: Any, hosted: Any) -> None:
    """Holds what has arrived against limits, and sums up the days that are over."""
    now = resources.utcnow()
    told = alarms.watch(hosted.store, now)
    if (day := series.begin(series_tables.ms_of(now - LATE), DAY_MS)) != intake.of(hosted.store).noted_day:
        intake.of(hosted.store).noted_day = day
        note_silent_days(hosted.store, now)
    if sum_days(hosted.store, now) or told:
        hosted.committed()


def sum_days(opened: store.Store, now: datetime.datetime) -> int:
    """Sums up what has changed of days that are over, for what goes up to the province; how many."""
    taking, count = intake.of(opened), 0
    over = series_tables.ms_of(now - LATE) - DAY_MS
    for name, day in sorted(pair for pair in taking.days if pair[1] <= over):
        region = resources.region_in(name)
        if opened.grants.owned(region):
            count += _sum_day(opened, name, day, now)
        taking.days.discard((name, day))
    return count


def _sum_day(opened: store.Store, name: str, day: int, now: datetime.datetime) -> int:
    region = resources.region_in(name)
    call = calls.own(opened, "sum_day", now, region)
    station = call.find(Station, name)
    if station is None:
        return 0
    date = _moment(day + BEIJING_MS).date()
    wanted = f"{name.rpartition('/')[2]}-{date:%Y%m%d}"
    known = call.find(StationDay, f"regions/{region}/stationDays/{wanted}")
    summed = known if known is not None else StationDay(station=name, date=date.isoformat())
    summed.division = station.division
    del summed.factors[:]
    valid_hours = 0
    for instrument in sorted(station.instruments, key=lambda i: i.factor):
        number = series_tables.series_of(name, instrument.factor)
        asked = _Question(opened, {number: name}, instrument.factor, day, day + DAY_MS, DAY_MS)
        for row in asked.sums():
            _, _, total_count, valid, total, low, high = row
            summed.factors.add(
                factor=instrument.factor, count=total_count, valid_count=valid,
                mean=total / valid if valid else 0.0, min=low, max=high,
            )  # fmt: skip
        hours = _Question(opened, {number: name}, instrument.factor, day, day + DAY_MS, HOUR_MS).sums()
        valid_hours += series.valid_hours([row[3] for row in hours], instrument.interval_s)
    summed.valid_hour_count = valid_hours
    if known is None:  # what is found out later does not change what was expected
        serving = _serving(station, day)
        summed.expected_hour_count = sum(
            series.expected_hours(i.interval_s, serving) for i in station.instruments
        )
    summed.count = sum(f.count for f in summed.factors)
    summed.valid_count = sum(f.valid_count for f in summed.factors)
    summed.expected_count = sum(86_400 // i.interval_s for i in station.instruments)
    if known is None:
        call.create(summed, parent=f"regions/{region}", event=pb.StationDaySummed, wanted=wanted)
    else:
        call.save(summed, pb.StationDaySummed)
    commit = call.changes.commit()
    assert commit is not None
    opened.commit(commit)
    return 1


def _serving(station: Station, day: int) -> int:
    """How many milliseconds of a day a station was in service, in whole hours."""
    if not station.HasField("out_of_service_until"):
        return DAY_MS
    return min(max(day + DAY_MS - _ms(station.out_of_service_until), 0), DAY_MS) // HOUR_MS * HOUR_MS


def note_silent_days(opened: store.Store, now: datetime.datetime) -> int:
    """Has the days summed up too on which a station sent nothing at all, since its first: how many. Without
    them a station that fell silent would look as if it had never failed."""
    taking = intake.of(opened)
    last = series.begin(series_tables.ms_of(now - LATE), DAY_MS) - DAY_MS
    count = 0
    for name, date in tables.last_days(opened):
        if not opened.grants.owned(resources.region_in(name)):
            continue
        known = series_tables.ms_of(datetime.datetime.fromisoformat(f"{date}T00:00:00+08:00"))
        first = max(known + DAY_MS, last - (SILENT_DAYS - 1) * DAY_MS)
        silent = {(name, day) for day in range(first, last + 1, DAY_MS)}
        count += len(silent - taking.days)
        taking.days |= silent
    return count


def _ms(stamped: Any) -> int:
    return int(stamped.seconds) * 1000 + int(stamped.nanos) // 1_000_000


def _moment(ms: int) -> datetime.datetime:
    return resources.EPOCH + datetime.timedelta(milliseconds=ms)


RESOURCES = (ReadingCorrection, StationDay)
FIGURES = (
    Figure(
        "H-16.4", "在线率", StationDay, part_sum="valid_hour_count", whole_sum="expected_hour_count",
        date="date",
    ),
)  # fmt: skip
HANDLERS: dict[str, Any] = {
    "StreamReadings": stream_readings,
    "ListReadings": list_readings,
    "AggregateReadings": aggregate_readings,
    "CorrectReading": correct_reading,
    "ListReadingCorrections": records.handlers(pb, ReadingCorrection)["ListReadingCorrections"],
    "ListStationDays": records.handlers(pb, StationDay)["ListStationDays"],
}
