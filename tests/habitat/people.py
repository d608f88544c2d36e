"""What the journeys of habitat share: how somebody asks, and a toilet, a station, a place to begin with."""

from typing import Any

from google.protobuf.message import Message

from mesh import errors
from tests.county import REGION, TOWN_UNIT, VILLAGE, VILLAGE_UNIT, County
from village.type.v1 import level_pb2

PARENT = f"regions/{REGION}"
HERE = {"latitude": 29.26, "longitude": 115.1}
AT_VILLAGE = {"level": level_pb2.LEVEL_VILLAGE, "unit": VILLAGE_UNIT}
AT_TOWN = {"level": level_pb2.LEVEL_TOWNSHIP, "unit": TOWN_UNIT}
DIVISION = VILLAGE


def refusal(county: County, who: str, request: Message, **claims: Any) -> str:
    """The reason for which a request is refused, or OK."""
    try:
        county.call(who, request, **claims)
    except errors.Refusal as refused:
        return refused.reason
    return "OK"
