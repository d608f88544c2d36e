"""What is found about readings (数据审核), as columns: which are not valid and why; and what they come to,
hour by hour. Pure, and quick where nothing is wrong, because readings come in millions."""

import bisect
import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BEIJING_MS = 8 * HOUR_MS
VALID_FLAGS = "NST"
"""Normal, entered by hand, and over its limit: measured all the same (HJ 212)."""
BOD, COD = "w01017", "w01018"
Span = tuple[int, int]


@dataclasses.dataclass
class Last:
    """The reading before: what steps and repetitions are counted from."""

    time: int
    value: float
    run: int


@dataclasses.dataclass(frozen=True)
class Sum:
    """What the readings of a span come to; `total`, `low` and `high` are of the valid ones."""

    start: int
    count: int
    valid: int
    total: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Arrival:
    """Readings of one instrument as they came; times ascend. `not_measuring`: the reason and the spans in
    which the instrument, or the station, was not measuring."""

    instrument: Any
    times: Sequence[int]
    values: Sequence[float]
    flags: str
    last: Last | None
    not_measuring: Mapping[str, Sequence[Span]]


def judge(arrival: Arrival) -> list[str] | None:
    """Why each reading is not valid, empty where it is; None when all are."""
    if not _doubtful(arrival):
        return None
    found, last, flags = [], arrival.last, arrival.flags
    run, before = (last.run, last.value) if last else (0, None)
    for n, (time, value) in enumerate(zip(arrival.times, arrival.values, strict=True)):
        run = run + 1 if value == before else 1
        if not math.isfinite(value):
            why = "NAN"
        elif flags and flags[n] not in VALID_FLAGS:
            why = "FLAG"
        else:
            why = _measured_wrong(arrival, time, value, before, run)
        found.append(why)
        if why not in ("NAN", "RANGE", "FLAG"):
            before = value
    return found if any(found) else None


def _measured_wrong(arrival: Arrival, time: int, value: float, before: float | None, run: int) -> str:
    instrument = arrival.instrument
    if not instrument.low <= value <= instrument.high:
        return "RANGE"
    if instrument.step and before is not None and abs(value - before) > instrument.step:
        return "STEP"
    if instrument.stuck and run > instrument.stuck:
        return "STUCK"
    idle = (why for why, spans in arrival.not_measuring.items() if any(a <= time < b for a, b in spans))
    return next(idle, "")


def _doubtful(arrival: Arrival) -> bool:
    """Whether any reading may be invalid, found without looking at each by itself."""
    instrument, times, values, last = arrival.instrument, arrival.times, arrival.values, arrival.last
    if arrival.flags.strip(VALID_FLAGS) or not all(map(math.isfinite, values)):
        return True
    if min(values) < instrument.low or max(values) > instrument.high:
        return True
    shifted = [last.value if last else math.nan, *values[:-1]]
    if instrument.step and any(map(instrument.step.__lt__, map(abs, map(operator.sub, values, shifted)))):
        return True
    if instrument.stuck:
        same = sum(map(operator.eq, values, shifted))
        if same + (last.run if last else 1) > instrument.stuck:
            return True
    spans = (span for each in arrival.not_measuring.values() for span in each)
    return any(start <= times[-1] and times[0] < end for start, end in spans)


def inconsistent(times: Sequence[int], values: Sequence[float], cod: Mapping[int, float]) -> list[str] | None:
    """BOD5 is below the COD of the same water; why each is not valid."""
    found = [
        "INCONSISTENT" if value >= cod.get(time, math.inf) else ""
        for time, value in zip(times, values, strict=True)
    ]
    return found if any(found) else None


def last_of(times: Sequence[int], values: Sequence[float], before: Last | None) -> Last:
    """What the next readings are compared with."""
    value, run = values[-1], 0
    for each in reversed(values):
        if each != value:
            return Last(times[-1], value, run)
        run += 1
    return Last(times[-1], value, run + (before.run if before and before.value == value else 0))


def begin(ms: int, span: int) -> int:
    """Where the hour, or the day of Beijing time, begins that a moment lies in."""
    shift = BEIJING_MS if span == DAY_MS else 0
    return (ms + shift) // span * span - shift


def valid_hours(hours: Sequence[int], interval_s: int) -> int:
    """How many hourly values there are of an instrument, by the valid readings of each hour of a day: where
    three quarters of those expected came (45 minutes of an hour; a local value, not from a standard)."""
    if interval_s >= HOUR_MS // 1000:
        return min(sum(hours), expected_hours(interval_s))
    return sum(4 * valid * interval_s >= 3 * HOUR_MS // 1000 for valid in hours)


def expected_hours(interval_s: int, part_ms: int = DAY_MS) -> int:
    """How many hourly values there would be in that part of a day."""
    return part_ms // max(HOUR_MS, interval_s * 1000)


def sums(
    times: Sequence[int], values: Sequence[float], invalid: Sequence[str] | None, span: int
) -> list[Sum]:
    """What readings come to in each hour, or day of Beijing time. Times ascend."""
    found, at = [], 0
    while at < len(times):
        start = begin(times[at], span)
        end = bisect.bisect_left(times, start + span, at)
        good = values[at:end]
        if invalid is not None:
            good = [v for v, why in zip(good, invalid[at:end], strict=True) if not why]
        total, low, high = (math.fsum(good), min(good), max(good)) if good else (0.0, 0.0, 0.0)
        found.append(Sum(start, end - at, len(good), total, low, high))
        at = end
    return found
