"""Rates as the province publishes them: with numerator, denominator and rounding stated, because figures
without them have been printed wrongly."""

import decimal

from village.habitat.v1 import report_pb2


def rate(numerator: int, denominator: int) -> report_pb2.Rate:
    """A rate in percent, rounded half up to two decimals; without percent when the whole is 0."""
    found = report_pb2.Rate(numerator=numerator, denominator=denominator)
    if denominator:
        exact = decimal.Decimal(100) * numerator / denominator
        found.percent.value = str(exact.quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP))
    return found
