"""Household waste: bins that overflow, routes, trips and what they bring (农村生活垃圾收运处理, H-4). Of
where a vehicle went a trip keeps which bins it reached, and no point (V-8)."""

import datetime
import math
from collections.abc import Iterable
from typing import Any

from mesh import calls, errors, flows, records, regions, resources
from services.habitat import devices, limits, one_map, tables
from services.habitat.figures import Figure
from village.habitat.v1 import waste_pb2 as pb
from village.habitat.v1.limit_policy_pb2 import LimitPolicy
from village.habitat.v1.waste_pb2 import Bin, Route, TransferStation, Trip, Vehicle, WeighTicket

LIMITS: dict[str, limits.Limits] = {
    "trips": {
        "plan": 1,
        "start": datetime.timedelta(hours=12),
        "weigh": datetime.timedelta(hours=6),
        "unload": 1,
    },
}
"""Working days or hours within which the next step is due; local values, not from a standard."""
CLOCK_SKEW = datetime.timedelta(seconds=30)
EARTH_RADIUS_M = 6_371_008.8
"""Mean radius (CGCS2000 ellipsoid)."""


class NetNotGrossLessTare(errors.Refused):
    en = "net {net} kg is not gross {gross} kg less tare {tare} kg"
    zh = "净重应等于毛重减皮重"


class TripNotUnderWay(errors.Refused):
    """A ticket is for a trip that collects or is being weighed."""

    en = "{trip} is {state}: nothing is weighed for it"
    zh = "车次不在收运中，不能过磅"


class WeighedElsewhere(errors.Refused):
    en = "{trip} goes to {station}"
    zh = "过磅站点与线路终点不符"


# the flow

_S = Trip.State
FLOW = flows.Flow(
    resource=Trip,
    policy=LimitPolicy,
    escalate_after=limits.escalate_after,
    actions={
        "plan": flows.Action(
            target=_S.STATE_PLANNED, event=pb.TripPlanned, limit=limits.after("plan")
        ),
        "start": flows.Action(
            sources=frozenset({_S.STATE_PLANNED}), target=_S.STATE_COLLECTING, event=pb.TripStarted,
            limit=limits.after("start"),
        ),
        "cover": flows.Action(
            sources=frozenset({_S.STATE_COLLECTING}), event=pb.TripCovered, keeps_clock=True
        ),
        "weigh": flows.Action(
            sources=frozenset({_S.STATE_COLLECTING, _S.STATE_WEIGHED}), target=_S.STATE_WEIGHED,
            event=pb.TripWeighed, limit=limits.after("weigh"),
        ),
        "unload": flows.Action(
            sources=frozenset({_S.STATE_WEIGHED}), target=_S.STATE_UNLOADED, event=pb.TripUnloaded,
            limit=limits.after("unload"),
        ),
        "close": flows.Action(
            sources=frozenset({_S.STATE_UNLOADED}), target=_S.STATE_CLOSED, event=pb.TripClosed
        ),
        "cancel": flows.Action(
            sources=frozenset({_S.STATE_PLANNED, _S.STATE_COLLECTING}), target=_S.STATE_CANCELLED,
            event=pb.TripCancelled,
        ),
        flows.ESCALATE: flows.Action(event=pb.TripEscalated, keeps_clock=True),
        flows.RECOUNT: flows.Action(event=pb.TripRecounted, keeps_clock=True),
    },
)  # fmt: skip


# rules


def metres(a: Any, b: Any) -> float:
    """The distance of two places in metres, over a sphere."""
    south, north = math.radians(a.latitude), math.radians(b.latitude)
    up, across = north - south, math.radians(b.longitude - a.longitude)
    half = math.sin(up / 2) ** 2 + math.cos(south) * math.cos(north) * math.sin(across / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(math.sqrt(half))


def reached(bins: Iterable[Bin], places: Iterable[Any], tolerance_m: int) -> set[str]:
    """Which of the bins some place is near enough to."""
    known = list(places)
    return {b.name for b in bins if any(metres(b.location, place) <= tolerance_m for place in known)}


def measured(found: Bin, percent: int, at: datetime.datetime) -> None:
    """Takes over a level: overflow begins at the threshold, and its minutes are added when it ends."""
    found.fill_percent = percent
    found.fill_time.CopyFrom(resources.stamp(at))
    since, full = found.HasField("overflow_since_time"), percent >= found.full_percent
    if full and not since:
        found.overflow_since_time.CopyFrom(resources.stamp(at))
        found.overflow_count += 1
    elif since and not full:
        span = at - resources.moment(found.overflow_since_time)
        found.overflow_minutes += max(int(span.total_seconds()) // 60, 0)
        found.ClearField("overflow_since_time")


def route_complete(route: Route, call: calls.Call) -> None:
    """What it reaches and where it ends exist where it lies."""
    for name in route.bins:
        found = call.find(Bin, name)
        if found is None or not regions.contains(route.division, found.division):
            raise errors.Invalid("route.bins", f"{name} is not a bin of that division")
    region = resources.region_in(route.name)
    if resources.region_in(route.station) != region or call.find(TransferStation, route.station) is None:
        raise errors.Invalid("route.station", "is not a transfer station of that region")


# handlers


def report_bin_fill(request: pb.ReportBinFillRequest, call: calls.Call) -> Bin:
    at = resources.moment(request.read_time)
    if at > call.now + CLOCK_SKEW:
        raise errors.Invalid("read_time", "lies in the future")
    found = call.load(Bin, request.name)
    devices.reporting(call, request.device, found.name)
    late = found.HasField("fill_time") and at <= resources.moment(found.fill_time)
    if late or (found.HasField("fill_time") and found.fill_percent == request.fill_percent):
        return found
    measured(found, request.fill_percent, at)
    return call.save(found, pb.BinFilled)


def empty_bin(request: pb.EmptyBinRequest, call: calls.Call) -> Bin:
    found = call.load(Bin, request.name)
    measured(found, 0, call.now)
    return call.save(found, pb.BinEmptied)


def plan_trip(request: pb.PlanTripRequest, call: calls.Call) -> Trip:
    trip, region = request.trip, resources.region_in(request.parent)
    route, vehicle = call.find(Route, trip.route), call.find(Vehicle, trip.vehicle)
    if route is None or resources.region_in(route.name) != region:
        raise errors.Invalid("trip.route", "is not a route of that region")
    if vehicle is None or resources.region_in(vehicle.name) != region:
        raise errors.Invalid("trip.vehicle", "is not a vehicle of that region")
    call.rely_on(route)
    trip.division, trip.station, trip.bin_count = route.division, route.station, len(route.bins)
    policy = limits.in_force(call, request.parent, "trips")
    return call.file(trip, parent=request.parent, policy=policy, wanted=request.trip_id)


def start_trip(request: pb.StartTripRequest, call: calls.Call) -> Trip:
    trip = call.load(Trip, request.name)
    trip.start_time.CopyFrom(resources.stamp(call.now))
    return call.take(trip, "start", reason=request.reason)


def report_trip_positions(
    request: pb.ReportTripPositionsRequest, call: calls.Call
) -> pb.ReportTripPositionsResponse:
    trip = call.load(Trip, request.name)
    devices.reporting(call, request.device, trip.vehicle)
    collecting = trip.state == _S.STATE_COLLECTING
    first, last = resources.moment(trip.start_time), call.now + CLOCK_SKEW
    during = [p for p in request.positions if collecting and first <= resources.moment(p.read_time) <= last]
    route = call.find(Route, trip.route)
    if during and route is not None:
        ahead = tables.bins(call, set(route.bins) - {*trip.reached_bins})
        fresh = reached(ahead, (position.location for position in during), route.tolerance_m)
        if fresh:
            trip.reached_bins.extend(name for name in route.bins if name in fresh)
            trip.reached_count = len(trip.reached_bins)
            call.take(trip, "cover")
    return pb.ReportTripPositionsResponse(
        reached_count=trip.reached_count,
        bin_count=trip.bin_count,
        dropped_count=len(request.positions) - len(during),
    )


def create_weigh_ticket(request: pb.CreateWeighTicketRequest, call: calls.Call) -> WeighTicket:
    ticket = request.weigh_ticket
    if resources.moment(ticket.weigh_time) > call.now + CLOCK_SKEW:
        raise errors.Invalid("weigh_ticket.weigh_time", "lies in the future")
    if ticket.net_kg != ticket.gross_kg - ticket.tare_kg:
        raise NetNotGrossLessTare(
            net=str(ticket.net_kg), gross=str(ticket.gross_kg), tare=str(ticket.tare_kg)
        )
    if ticket.recycled_kg > ticket.net_kg:
        raise errors.Invalid("weigh_ticket.recycled_kg", "is more than the net weight")
    if resources.region_in(ticket.trip) != resources.region_in(request.parent):
        raise errors.Invalid("weigh_ticket.trip", "is not a trip of that region")
    trip = call.load(Trip, ticket.trip)
    if ticket.station != trip.station:
        raise WeighedElsewhere(trip=trip.name, station=trip.station)
    if trip.state not in (_S.STATE_COLLECTING, _S.STATE_WEIGHED):
        raise TripNotUnderWay(trip=trip.name, state=FLOW.state_name(trip.state))
    if "DEV" in call.caller.roles:
        devices.reporting(call, request.device, ticket.station)
    _weighed(trip, ticket, call)
    ticket.division = trip.division
    return call.create(
        ticket, parent=request.parent, event=pb.WeighTicketCreated, wanted=request.weigh_ticket_id
    )


def _weighed(trip: Trip, ticket: WeighTicket, call: calls.Call) -> None:
    if not trip.HasField("weigh_time"):
        trip.weigh_time.CopyFrom(ticket.weigh_time)
    trip.weigh_count += 1
    trip.weight_kg += ticket.net_kg
    trip.recycled_kg += ticket.recycled_kg
    call.take(trip, "weigh")


def unload_trip(request: pb.UnloadTripRequest, call: calls.Call) -> Trip:
    trip = call.load(Trip, request.name)
    trip.unload_time.CopyFrom(resources.stamp(call.now))
    return call.take(trip, "unload", reason=request.reason)


def close_trip(request: pb.CloseTripRequest, call: calls.Call) -> Trip:
    trip = call.load(Trip, request.name)
    trip.close_time.CopyFrom(resources.stamp(call.now))
    return call.take(trip, "close", reason=request.reason)


def cancel_trip(request: pb.CancelTripRequest, call: calls.Call) -> Trip:
    return call.take(call.load(Trip, request.name), "cancel", reason=request.reason)


LAYERS = (
    one_map.Layer(Bin, "垃圾投放点", state="kind"),
    one_map.Layer(TransferStation, "垃圾中转站"),
)
RESOURCES = (Bin, TransferStation, Vehicle, Route, Trip, WeighTicket)
FLOWS = (FLOW,)
FIGURES = (
    Figure(
        "H-4.1", "清运率", Trip, part="state != CANCELLED", whole="state != CANCELLED",
        part_sum="reached_count", whole_sum="bin_count",
    ),
    Figure("H-4.2", "满溢时长", Bin, part_sum="overflow_minutes", unit="min"),
    Figure("H-4.3", "清运量", WeighTicket, part_sum="net_kg", unit="kg"),
    Figure("H-4.4", "可回收占比", WeighTicket, part_sum="recycled_kg", whole_sum="net_kg"),
)  # fmt: skip
HANDLERS = {
    **records.handlers(pb, Bin, created=pb.BinCreated, changed=pb.BinChanged),
    **records.handlers(
        pb, TransferStation, created=pb.TransferStationCreated, changed=pb.TransferStationChanged
    ),
    **records.handlers(pb, Vehicle, created=pb.VehicleCreated, changed=pb.VehicleChanged),
    **records.handlers(
        pb, Route, created=pb.RouteCreated, changed=pb.RouteChanged, check=route_complete
    ),
    **records.handlers(pb, Trip),
    **records.handlers(pb, WeighTicket),
    "ReportBinFill": report_bin_fill,
    "EmptyBin": empty_bin,
    "PlanTrip": plan_trip,
    "StartTrip": start_trip,
    "ReportTripPositions": report_trip_positions,
    "CreateWeighTicket": create_weigh_ticket,
    "UnloadTrip": unload_trip,
    "CloseTrip": close_trip,
    "CancelTrip": cancel_trip,
}  # fmt: skip
