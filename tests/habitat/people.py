"""What the journeys of habitat share: how somebody asks, and a toilet, a station, a place to begin with."""

import datetime
import json
from typing import Any

from google.protobuf.message import Message

from mesh import errors
from tests.county import REGION, TOWN_UNIT, VILLAGE, VILLAGE_UNIT, County, issuer
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


def with_province(county: County) -> County:
    """The county, whose issuer vouches for the province's officers too."""
    entry = {"issuer": issuer(REGION), "jwks": "jwks.json", "region": REGION, "highest_level": "PROVINCE"}
    (county.folder / "trust/issuers.json").write_text(json.dumps({"issuers": [entry]}))
    county.chain.callers._issuers._looked = 0.0
    return county


def before(county: County, **span: float) -> dict[str, int]:
    """A time that long ago, as requests state it."""
    return {"seconds": int((county.now - datetime.timedelta(**span)).timestamp())}
