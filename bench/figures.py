"""What a figure is, and how two things are compared on a machine that others use too: short runs in turn,
and the median of their ratios."""

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "out/results.json"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of the results."""

    name: str
    value: float
    unit: str
    floor: float | None
    """The same of the floor, in the same unit; None where there is none."""
    ratio: float | None
    """Ours to the floor's, the median over pairs of runs."""
    conditions: dict[str, Any]

    def line(self) -> str:
        """For people."""
        floor = "" if self.floor is None else f"{self.floor:>10.4g}"
        ratio = "" if self.ratio is None else f"{self.ratio:>7.2f}"
        about = ", ".join(f"{k}: {v}" for k, v in self.conditions.items())
        return f"{self.name:<18} {self.value:>10.4g} {self.unit:<9} {floor:>10} {ratio:>7}  {about}"


HEADER = f"{'figure':<18} {'value':>10} {'unit':<9} {'floor':>10} {'ratio':>7}  conditions"


def pairs(
    ours: Callable[[], float], floor: Callable[[], float], count: int
) -> tuple[float, float, float, str]:
    """Runs both in turn, each first every other time: the median of ours, of the floor's and of their
    ratios, and the lowest and highest ratio as text."""
    found: list[tuple[float, float]] = []
    for n in range(count):
        if n % 2:
            two = floor()
            found.append((ours(), two))
        else:
            one = ours()
            found.append((one, floor()))
    ratios = [one / two for one, two in found]
    ones, twos = zip(*found, strict=True)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return statistics.median(ones), statistics.median(twos), statistics.median(ratios), spread


def load_average() -> str:
    """The machine's load average over the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def write(found: Iterable[Figure], machine: dict[str, Any]) -> None:
    """Writes what was measured in this run, and nothing of earlier runs."""
    RESULTS.parent.mkdir(exist_ok=True)
    lines = [{**dataclasses.asdict(f), "conditions": {**f.conditions, **machine}} for f in found]
    RESULTS.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n")
