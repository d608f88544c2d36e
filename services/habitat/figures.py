"""Rates as the province publishes them: with numerator, denominator and rounding stated, because figures
without them have been printed wrongly."""

import dataclasses
import decimal

from google.protobuf.message import Message

from village.habitat.v1 import report_pb2


@dataclasses.dataclass(frozen=True)
class Figure:
    """An indicator of an area: which of its records are counted, or of which field the sum is taken.
    `part` and `whole` are filters (AIP-160)."""

    id: str
    title: str
    resource: type[Message]
    part: str = ""
    whole: str = ""
    part_sum: str = ""
    whole_sum: str = ""
    unit: str = "%"


def rate(numerator: int, denominator: int) -> report_pb2.Rate:
    """A rate in percent, rounded half up to two decimals; without percent when the whole is 0."""
    found = report_pb2.Rate(numerator=numerator, denominator=denominator)
    if denominator:
        exact = decimal.Decimal(100) * numerator / denominator
        found.percent.value = str(exact.quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP))
    return found
