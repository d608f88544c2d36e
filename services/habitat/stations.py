"""Drinking-water sources, monitoring stations and the calibrations of their instruments (H-11, and whatever
else is measured by itself)."""

from typing import Any

from mesh import calls, errors, records, resources
from services.habitat import figures, one_map, tables
from village.habitat.v1 import station_pb2 as pb
from village.habitat.v1.standard_pb2 import Standard
from village.habitat.v1.station_pb2 import Calibration, Station, WaterSource


def fits(station: Station, call: calls.Call) -> None:
    """Its device is no other station's; its standard is the region's own or came down from above, and has the
    class."""
    if station.device_number:
        others = tables.stations_of(call.store, Station, station.device_number)
        if set(others) - {station.name}:
            raise errors.Invalid("station.device_number", "is another station's")
    if not station.standard:
        if station.standard_class:
            raise errors.Invalid("station.standard_class", "is stated without a standard")
        return
    standard = call.find(Standard, station.standard)
    if standard is None:
        raise errors.Invalid("station.standard", "is no standard that is known here")
    if station.standard_class not in standard.classes:
        raise errors.Invalid("station.standard_class", f"is none of {', '.join(standard.classes)}")


def create_calibration(request: pb.CreateCalibrationRequest, call: calls.Call) -> Calibration:
    calibration = request.calibration
    station = call.find(Station, calibration.station)
    if station is None or resources.region_in(calibration.station) != resources.region_in(request.parent):
        raise errors.Invalid("calibration.station", "is not a station of that region")
    if calibration.factor not in {instrument.factor for instrument in station.instruments}:
        raise errors.Invalid("calibration.factor", "is measured by no instrument of that station")
    start, end = resources.moment(calibration.start_time), resources.moment(calibration.end_time)
    if not start < end <= call.now:
        raise errors.Invalid("calibration.end_time", "lies before its start, or in the future")
    calibration.division = station.division
    difference = abs(calibration.measured - calibration.expected)
    calibration.passed = difference * 100 <= abs(calibration.expected) * calibration.tolerance_percent
    return call.create(
        calibration, parent=request.parent, event=pb.CalibrationCreated, wanted=request.calibration_id
    )


FIGURES = (
    figures.Figure("H-11.3", "校准合格率", Calibration, part="passed = true"),
)  # fmt: skip
LAYERS = (
    one_map.Layer(WaterSource, "饮用水水源", state="kind", public=True, kept_safe=True),
    one_map.Layer(Station, "监测站", state="kind"),
)
RESOURCES = (WaterSource, Station, Calibration)
HANDLERS: dict[str, Any] = {
    **records.handlers(pb, WaterSource, created=pb.WaterSourceCreated, changed=pb.WaterSourceChanged),
    **records.handlers(pb, Station, created=pb.StationCreated, changed=pb.StationChanged, check=fits),
    **records.handlers(pb, Calibration),
    "CreateCalibration": create_calibration,
}
