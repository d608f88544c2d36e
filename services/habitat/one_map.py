"""The one map (一图全面感知, H-2, H-15) and what a county shows beside it: its village points, and sheets of
figures (报表). An area lists what of it has a place, as LAYERS."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from google.api import httpbody_pb2
from google.protobuf.message import Message

from mesh import calls, contract, errors, flows, lists, records, resources
from services.habitat import figures, tables
from village.habitat.v1 import one_map_pb2 as pb
from village.habitat.v1.one_map_pb2 import FigureSheet, VillagePoint

MOST = 20_000
LONGEST = 3_500_000
"""Bytes after which a page ends, because an answer may have 4 MiB."""
BLURRED = 2
"""Decimals of a degree that the public sees of what is to be kept safe: about a kilometre."""
_A, _EE = 6378245.0, 0.00669342162296594323
"""The ellipsoid of Krasovsky, on which GCJ-02 was made."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What of one kind of record is drawn. `state`: the field that colours it; `time`: when it happened, of
    things that happen; `public`: whether residents see it; `kept_safe`: that they see only about where."""

    resource: type[Message]
    title: str
    state: str = ""
    time: str = ""
    place: str = "location"
    public: bool = False
    kept_safe: bool = False

    @functools.cached_property
    def name(self) -> str:
        return contract.resource(self.resource).plural


def gcj02(longitude: float, latitude: float) -> tuple[float, float]:
    """CGCS2000 as GCJ-02, within a metre; outside China as it is."""
    if not (72.004 <= longitude <= 137.8347 and 0.8293 <= latitude <= 55.8271):
        return longitude, latitude
    x, y = longitude - 105.0, latitude - 35.0
    both = (20.0 * math.sin(6.0 * x * math.pi) + 20.0 * math.sin(2.0 * x * math.pi)) * 2.0 / 3.0
    north = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * math.sqrt(abs(x)) + both
    north += (20.0 * math.sin(y * math.pi) + 40.0 * math.sin(y / 3.0 * math.pi)) * 2.0 / 3.0
    north += (160.0 * math.sin(y / 12.0 * math.pi) + 320 * math.sin(y * math.pi / 30.0)) * 2.0 / 3.0
    east = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * math.sqrt(abs(x)) + both
    east += (20.0 * math.sin(x * math.pi) + 40.0 * math.sin(x / 3.0 * math.pi)) * 2.0 / 3.0
    east += (150.0 * math.sin(x / 12.0 * math.pi) + 300.0 * math.sin(x / 30.0 * math.pi)) * 2.0 / 3.0
    angle = latitude / 180.0 * math.pi
    magic = 1 - _EE * math.sin(angle) ** 2
    north = north * 180.0 / ((_A * (1 - _EE)) / (magic * math.sqrt(magic)) * math.pi)
    east = east * 180.0 / (_A / math.sqrt(magic) * math.cos(angle) * math.pi)
    return longitude + east, latitude + north


def handlers(areas: Sequence[Any]) -> Mapping[str, Any]:
    """The method that draws what the areas list."""
    known = {layer.name: layer for area in areas for layer in getattr(area, "LAYERS", ())}

    def draw_map(request: pb.DrawMapRequest, call: calls.Call) -> httpbody_pb2.HttpBody:
        box = list(request.box)
        if box and not (len(box) == 4 and box[0] < box[2] and box[1] < box[3]):
            raise errors.Invalid("box", "is not west, south, east, north")
        for n, name in enumerate(request.layers):
            if name not in known:
                raise errors.Invalid(f"layers[{n}]", f"is none of {', '.join(sorted(known))}")
        outside = not call.caller.official
        drawn = [
            layer
            for name, layer in sorted(known.items())
            if (not request.layers or name in request.layers) and (layer.public or not outside)
        ]
        return _page(drawn, request, call, outside=outside)

    return {"DrawMap": draw_map}


def _page(
    layers: Sequence[Layer], request: pb.DrawMapRequest, call: calls.Call, *, outside: bool
) -> httpbody_pb2.HttpBody:
    size = min(request.page_size or MOST, MOST)
    after = lists.read(call.store, call.method, request) if request.page_token else ["", ""]
    features: list[bytes] = []
    last = ["", ""]
    length, token = 0, ""
    for layer in layers:
        if layer.name < after[0]:
            continue
        behind = after[1] if layer.name == after[0] else ""
        rows = tables.placed(call, layer, request, behind, size + 1 - len(features))
        for row in rows:
            if len(features) == size or length > LONGEST:
                token = lists.token(call.store, call.method, request, last)
                break
            if layer.place == "location" or not request.box or _touches(row[4], list(request.box)):
                feature = _feature(layer, row, request.crs, blurred=outside and layer.kept_safe)
                features.append(orjson.dumps(feature))
                last, length = [layer.name, feature["id"]], length + len(features[-1])
        if token:
            break
    told = {"type": "FeatureCollection", "features": [orjson.Fragment(f) for f in features]}
    told |= {"next_page_token": token, "crs": "GCJ-02" if request.crs == pb.CRS_GCJ02 else "CGCS2000"}
    return httpbody_pb2.HttpBody(content_type="application/geo+json", data=orjson.dumps(told))


def _feature(layer: Layer, row: Sequence[Any], crs: int, *, blurred: bool) -> dict[str, Any]:
    name, division, longitude, latitude, boundary, title, state, time = row
    geometry: dict[str, Any] | None = None
    if boundary:
        found = _corners(boundary)
        ring = [_point(p.get("longitude", 0.0), p.get("latitude", 0.0), crs) for p in found]
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    elif longitude is None:
        pass  # its place is not known: a feature without one (RFC 7946, 3.2)
    elif blurred:
        geometry = {"type": "Point", "coordinates": [round(longitude, BLURRED), round(latitude, BLURRED)]}
    else:
        geometry = {"type": "Point", "coordinates": _point(longitude, latitude, crs)}
    about = {"layer": layer.name, "title": title or layer.title, "state": state, "division": division}
    if time is not None:
        about["time"] = time if isinstance(time, str) else resources.rfc3339(time)
    return {"type": "Feature", "id": name, "geometry": geometry, "properties": about}


def _corners(boundary: Any) -> list[dict[str, float]]:
    found: list[dict[str, float]] = orjson.loads(boundary) if isinstance(boundary, str) else boundary
    return found


def _touches(boundary: Any, box: Sequence[float]) -> bool:
    """Whether an area's own box meets another."""
    corners = _corners(boundary or [])
    if not corners:
        return False
    east, north = ([p.get(side, 0.0) for p in corners] for side in ("longitude", "latitude"))
    west, south, far, high = box
    return min(east) <= far and max(east) >= west and min(north) <= high and max(north) >= south


def _point(longitude: float, latitude: float, crs: int) -> list[float]:
    if crs == pb.CRS_GCJ02:
        longitude, latitude = gcj02(longitude, latitude)
    return [round(longitude, 7), round(latitude, 7)]


# sheets of figures

_S = FigureSheet.State
FLOW = flows.Flow(
    resource=FigureSheet,
    actions={
        "generate": flows.Action(target=_S.STATE_GENERATED, event=pb.FigureSheetGenerated),
        "check": flows.Action(
            sources=frozenset({_S.STATE_GENERATED}), target=_S.STATE_CHECKED, event=pb.FigureSheetChecked
        ),
        "publish": flows.Action(
            sources=frozenset({_S.STATE_CHECKED}), target=_S.STATE_PUBLISHED, event=pb.FigureSheetPublished
        ),
        "discard": flows.Action(
            sources=frozenset({_S.STATE_GENERATED, _S.STATE_CHECKED}), target=_S.STATE_DISCARDED,
            event=pb.FigureSheetDiscarded,
        ),
    },
)  # fmt: skip


def sheet_handlers(areas: Sequence[Any]) -> Mapping[str, Any]:
    """The method that makes a sheet of what the areas list."""

    def generate_figure_sheet(request: pb.GenerateFigureSheetRequest, call: calls.Call) -> FigureSheet:
        sheet = request.figure_sheet
        sheet.figures.extend(figures.computed(areas, list(sheet.ids), request.parent, call))
        sheet.cut_off_time.CopyFrom(resources.stamp(call.now))
        sheet.generator = call.reference
        return call.file(sheet, parent=request.parent, wanted=request.figure_sheet_id)

    return {"GenerateFigureSheet": generate_figure_sheet}


def check_figure_sheet(request: pb.CheckFigureSheetRequest, call: calls.Call) -> FigureSheet:
    return call.take(call.load(FigureSheet, request.name), "check", reason=request.reason)


def publish_figure_sheet(request: pb.PublishFigureSheetRequest, call: calls.Call) -> FigureSheet:
    sheet = call.load(FigureSheet, request.name)
    sheet.publish_time.CopyFrom(resources.stamp(call.now))
    return call.take(sheet, "publish", reason=request.reason)


def discard_figure_sheet(request: pb.DiscardFigureSheetRequest, call: calls.Call) -> FigureSheet:
    return call.take(call.load(FigureSheet, request.name), "discard", reason=request.reason)


LAYERS = (Layer(VillagePoint, "自然村点", state="connected", public=True),)
FIGURES = (figures.Figure("H-2.1", "接入率", VillagePoint, part="connected = true"),)
RESOURCES = (VillagePoint, FigureSheet)
FLOWS = (FLOW,)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, VillagePoint, created=pb.VillagePointCreated, changed=pb.VillagePointChanged),
    **records.handlers(pb, FigureSheet),
    "CheckFigureSheet": check_figure_sheet,
    "PublishFigureSheet": publish_figure_sheet,
    "DiscardFigureSheet": discard_figure_sheet,
}
