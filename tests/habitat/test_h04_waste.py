"""H-4 农村生活垃圾收运: a bin overflows and is emptied; a trip reaches bins, is weighed and unloaded, and
nothing is known of where its vehicle was."""

import datetime
from typing import Any

import pytest

from mesh import errors, resources
from tests.county import TOWN, County
from tests.habitat.people import DIVISION, HERE, PARENT, device, refusal, verbs_of
from tests.loop import rows
from village.habitat.v1 import devices_pb2
from village.habitat.v1 import waste_pb2 as pb

LEVEL, POSITION = devices_pb2.Device.KIND_BIN_LEVEL, devices_pb2.Device.KIND_VEHICLE_POSITION
FAR = {"latitude": 29.30, "longitude": 115.2}


def bin_(county: County, **fields: Any) -> pb.Bin:
    wanted = {
        "division": DIVISION, "title": "北岸投放点", "location": HERE, "kind": pb.Bin.KIND_RESIDUAL,
        "capacity_l": 240, "full_percent": 90, **fields,
    }  # fmt: skip
    made: pb.Bin = county.call("village", pb.CreateBinRequest(parent=PARENT, bin=wanted))
    return made


def station(county: County) -> str:
    wanted = {"division": TOWN, "title": "新宁中转站", "location": FAR, "capacity_kg_per_day": 20000}
    made = county.call("town", pb.CreateTransferStationRequest(parent=PARENT, transfer_station=wanted))
    return str(made.name)


def vehicle(county: County, number: str = "X-07") -> str:
    wanted = {"division": TOWN, "fleet_number": number, "kind": pb.Vehicle.KIND_COMPACTOR, "load_kg": 5000}
    return str(county.call("town", pb.CreateVehicleRequest(parent=PARENT, vehicle=wanted)).name)


def trip(county: County) -> pb.Trip:
    """One planned over two bins."""
    bins = [bin_(county).name, bin_(county, location=FAR).name]
    wanted = {
        "division": TOWN, "title": "一号线", "bins": bins, "station": station(county), "tolerance_m": 30,
        "trips_per_week": 7,
    }  # fmt: skip
    route = county.call("town", pb.CreateRouteRequest(parent=PARENT, route=wanted)).name
    planned = {"route": route, "vehicle": vehicle(county), "plan_time": resources.stamp(county.now)}
    made: pb.Trip = county.call("town", pb.PlanTripRequest(parent=PARENT, trip=planned))
    return made


def fill(county: County, of: pb.Bin, by: str, percent: int, minutes: int = 0) -> pb.Bin:
    county.pass_time(minutes=minutes)
    at = resources.stamp(county.now)
    asked = pb.ReportBinFillRequest(name=of.name, device=by, fill_percent=percent, read_time=at)
    answered: pb.Bin = county.call("device", asked)
    return answered


def positions(
    county: County, of: pb.Trip, by: str, place: Any, ago: int = 0
) -> pb.ReportTripPositionsResponse:
    at = resources.stamp(county.now - datetime.timedelta(minutes=ago))
    asked = pb.ReportTripPositionsRequest(
        name=of.name, device=by, positions=[{"location": place, "read_time": at}]
    )
    answered: pb.ReportTripPositionsResponse = county.call("device", asked)
    return answered


def ticket(county: County, of: pb.Trip, number: str = "A-1", **fields: Any) -> pb.CreateWeighTicketRequest:
    wanted = {
        "trip": of.name, "station": of.station, "number": number, "gross_kg": 3000, "tare_kg": 2000,
        "net_kg": 1000, "recycled_kg": 150, "weigh_time": resources.stamp(county.now), **fields,
    }  # fmt: skip
    return pb.CreateWeighTicketRequest(parent=PARENT, weigh_ticket=wanted)


class TestBins:
    def test_overflow_counts_from_the_device_until_it_is_emptied(self, county: County) -> None:
        of = bin_(county)
        by = device(county, LEVEL, of.name).name
        assert not fill(county, of, by, 60).HasField("overflow_since_time")
        full = fill(county, of, by, 95, minutes=10)
        assert resources.moment(full.overflow_since_time) == county.now
        assert fill(county, of, by, 99, minutes=30).overflow_since_time == full.overflow_since_time
        empty = fill(county, of, by, 5, minutes=15)
        assert (empty.overflow_minutes, empty.overflow_count) == (45, 1)
        assert not empty.HasField("overflow_since_time")

    def test_a_hand_empties_it_too(self, county: County) -> None:
        of = bin_(county)
        fill(county, of, device(county, LEVEL, of.name).name, 100)
        county.pass_time(hours=2)
        emptied = county.call("village", pb.EmptyBinRequest(name=of.name))
        assert (emptied.fill_percent, emptied.overflow_minutes) == (0, 120)

    def test_late_and_equal_levels_write_nothing(self, county: County) -> None:
        of = bin_(county)
        by = device(county, LEVEL, of.name).name
        etag = fill(county, of, by, 95, minutes=10).etag
        assert fill(county, of, by, 95, minutes=1).etag == etag
        early = resources.stamp(county.now - datetime.timedelta(hours=1))
        asked = pb.ReportBinFillRequest(name=of.name, device=by, fill_percent=3, read_time=early)
        assert county.call("device", asked).fill_percent == 95

    def test_only_its_own_device_tells_of_it(self, county: County) -> None:
        of, other = bin_(county), bin_(county)
        by = device(county, LEVEL, of.name).name
        at = resources.stamp(county.now)
        asked = pb.ReportBinFillRequest(name=other.name, device=by, fill_percent=9, read_time=at)
        assert refusal(county, "device", asked) == "NOT_THE_DEVICE"
        asked.name = of.name
        assert refusal(county, "device", asked, sub="device-2") == "NOT_THE_DEVICE"
        assert refusal(county, "village", asked) == "FORBIDDEN"


class TestTrips:
    def test_goes_from_planned_to_closed(self, county: County) -> None:
        of = trip(county)
        county.call("town", pb.StartTripRequest(name=of.name))
        county.call("town", ticket(county, of))
        second = ticket(county, of, "A-2", gross_kg=2500, net_kg=500, recycled_kg=0)
        county.call("town", second)
        county.call("town", pb.UnloadTripRequest(name=of.name))
        closed = county.call("town", pb.CloseTripRequest(name=of.name))
        assert (closed.state, closed.weight_kg, closed.recycled_kg) == (pb.Trip.STATE_CLOSED, 1500, 150)
        assert closed.weigh_count == 2
        assert verbs_of(county, of.name) == ["planned", "started", "weighed", "weighed", "unloaded", "closed"]

    def test_of_where_it_was_only_the_bins_that_it_reached_are_kept(self, county: County) -> None:
        of = trip(county)
        by = device(county, POSITION, of.vehicle).name
        county.call("town", pb.StartTripRequest(name=of.name))
        county.pass_time(minutes=20)
        near = {"latitude": 29.26013, "longitude": 115.10007}  # 16 m off
        assert positions(county, of, by, near).reached_count == 1
        before = rows(county, "SELECT count(*) FROM mesh_outbox")
        beside = {"latitude": 29.264321, "longitude": 115.104321}  # 600 m off
        assert positions(county, of, by, beside).reached_count == 1
        assert rows(county, "SELECT count(*) FROM mesh_outbox") == before
        assert positions(county, of, by, FAR).reached_count == 2
        kept = county.call("town", pb.GetTripRequest(name=of.name))
        assert (kept.reached_count, kept.bin_count) == (2, 2)
        for table in ("trips", "mesh_outbox", "mesh_step", "mesh_audit"):
            assert not [row for row in rows(county, f"SELECT * FROM {table}") if "29.26013" in str(row)]

    def test_positions_outside_the_trip_are_not_looked_at(self, county: County) -> None:
        of = trip(county)
        by = device(county, POSITION, of.vehicle).name
        before = positions(county, of, by, HERE)
        assert (before.reached_count, before.dropped_count) == (0, 1)
        county.call("town", pb.StartTripRequest(name=of.name))
        assert positions(county, of, by, HERE, ago=30).dropped_count == 1
        county.call("town", ticket(county, of))
        assert positions(county, of, by, HERE).dropped_count == 1
        assert not county.call("town", pb.GetTripRequest(name=of.name)).reached_bins

    def test_a_ticket_counts_once_and_adds_up(self, county: County) -> None:
        of = trip(county)
        assert refusal(county, "town", ticket(county, of)) == "TRIP_NOT_UNDER_WAY"
        county.call("town", pb.StartTripRequest(name=of.name))
        assert refusal(county, "town", ticket(county, of, net_kg=900)) == "NET_NOT_GROSS_LESS_TARE"
        assert refusal(county, "town", ticket(county, of, station=station(county))) == "WEIGHED_ELSEWHERE"
        assert refusal(county, "town", ticket(county, of)) == "OK"
        assert refusal(county, "town", ticket(county, of)) == "ALREADY_EXISTS"
        assert county.call("town", pb.GetTripRequest(name=of.name)).weight_kg == 1000

    def test_a_trip_that_is_forgotten_rises(self, county: County) -> None:
        of = trip(county)
        county.call("town", pb.StartTripRequest(name=of.name))
        county.pass_time(hours=13)
        county.hosted.tick()
        late = county.call("county", pb.GetTripRequest(name=of.name))
        assert (late.overdue, verbs_of(county, of.name)[-1]) == (True, "escalated")

    def test_routes_and_trips_are_of_what_there_is(self, county: County) -> None:
        wanted = {
            "division": TOWN, "title": "一号线", "bins": [f"{PARENT}/bins/none"], "station": station(county),
            "tolerance_m": 30, "trips_per_week": 7,
        }  # fmt: skip
        with pytest.raises(errors.Invalid, match=r"route\.bins"):
            county.call("town", pb.CreateRouteRequest(parent=PARENT, route=wanted))
        planned = {
            "route": trip(county).route, "vehicle": f"{PARENT}/vehicles/none",
            "plan_time": resources.stamp(county.now),
        }  # fmt: skip
        with pytest.raises(errors.Invalid, match=r"trip\.vehicle"):
            county.call("town", pb.PlanTripRequest(parent=PARENT, trip=planned))

    def test_a_neighbouring_township_sees_no_trip(self, county: County) -> None:
        of = trip(county)
        assert refusal(county, "other_town", pb.StartTripRequest(name=of.name)) == "FORBIDDEN"
        assert not county.call("other_town", pb.ListTripsRequest(parent=PARENT)).trips

    def test_has_no_driver_and_no_plate(self) -> None:
        for of in (pb.Trip, pb.Vehicle, pb.WeighTicket):
            assert not [f for f in of.DESCRIPTOR.fields_by_name if "driver" in f or "plate" in f]
