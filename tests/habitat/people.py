"""What the journeys of habitat share: how somebody asks, and a toilet, a station, a place to begin with."""

import datetime
import json
from typing import Any

from google.protobuf.message import Message

from mesh import errors
from tests.county import REGION, TOWN_UNIT, VILLAGE, VILLAGE_UNIT, County, issuer
from tests.loop import rows
from village.habitat.v1 import devices_pb2
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


def device(county: County, kind: int, target: str, subject: str = "device-1") -> devices_pb2.Device:
    """A device in use for that target."""
    wanted = {"title": "终端", "division": VILLAGE, "kind": kind, "subject": subject}
    name = county.call("county", devices_pb2.RegisterDeviceRequest(parent=PARENT, device=wanted)).name
    bound = {"device": name, "target": target}
    county.call("county", devices_pb2.CreateBindingRequest(parent=PARENT, binding=bound))
    active: devices_pb2.Device = county.call("county", devices_pb2.ActivateDeviceRequest(name=name))
    return active


def verbs_of(county: County, name: str) -> list[str]:
    """What was announced of a record, in order."""
    found = rows(county, "SELECT subject FROM mesh_outbox WHERE name = :name ORDER BY id", name=name)
    return [subject.rpartition(".")[2] for (subject,) in found]
