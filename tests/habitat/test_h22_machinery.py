"""H-22 “互联网+农机”: a job is started and ended, its area computed by where the machine was
meanwhile, verified and settled; nothing is kept of where it was otherwise (V-8)."""

import datetime
import math
from typing import Any

import pytest

from mesh import errors
from services.habitat import machinery, tracks
from tests.county import FARM_UNIT, County
from tests.habitat.people import DIVISION, PARENT, before, refusal
from tests.loop import rows
from village.habitat.v1 import figure_pb2
from village.habitat.v1 import machinery_pb2 as pb

J = pb.MachineryJob
RULE = {
    "kind": J.KIND_SUBSOILING, "least_depth_cm": 25, "longest_gap_s": 60, "fastest_kmh": 30,
    "least_ratio_percent": 60, "basis": "县农机补贴细则", "confidence": pb.JobRule.CONFIDENCE_LOW,
}  # fmt: skip
NORTH = 29.2611111


def machine(county: County, number: str = "DF-2204-0001", **fields: object) -> str:
    wanted = {
        "division": DIVISION, "title": "东方红 2204", "number": number, "owner_unit": FARM_UNIT,
        "kinds": [J.KIND_SUBSOILING], "working_width_m": 3, **fields,
    }  # fmt: skip
    return str(county.call("county", pb.CreateMachineRequest(parent=PARENT, machine=wanted)).name)


def terminal(county: County, of: str, device: str = "nj-0001") -> str:
    wanted = {"machine": of, "device": device, "active": True}
    return str(county.call("county", pb.CreateTerminalRequest(parent=PARENT, terminal=wanted)).name)


def rule(county: County, **fields: object) -> None:
    wanted = {**RULE, "effective_time": before(county, days=1), **fields}
    county.call("county", pb.CreateJobRuleRequest(parent=PARENT, job_rule=wanted))


def started(county: County, who: str = "town", **fields: object) -> pb.MachineryJob:
    """A job of a machine of its own."""
    of = machine(county)
    wanted = {
        "machine": of, "terminal": terminal(county, of), "kind": J.KIND_SUBSOILING,
        "division": DIVISION, **fields,
    }  # fmt: skip
    made: pb.MachineryJob = county.call(who, pb.StartMachineryJobRequest(parent=PARENT, machinery_job=wanted))
    return made


def lane(county: County, length_m: int = 600, depth_cm: float = 30) -> list[dict[str, Any]]:
    """A straight lane, 2 m in a second, that ends now."""
    points = []
    for n in range(0, length_m + 1, 10):
        east = n / (tracks.METRES_PER_DEGREE * math.cos(math.radians(NORTH)))
        at = {"latitude": NORTH, "longitude": 115.1 + east}
        back = before(county, seconds=(length_m - n) / 2)
        points.append({"time": back, "location": at, "depth_cm": depth_cm})
    return points


def reported(county: County, of: str, points: Any, who: str = "tractor") -> tuple[int, int]:
    answer = county.call(who, pb.ReportPositionsRequest(parent=PARENT, machine=of, points=points))
    return answer.kept, answer.dropped


def computed(county: County, claimed_mu: float = 2.5, **fields: float) -> pb.MachineryJob:
    rule(county)
    job = started(county)
    county.pass_time(minutes=10)
    reported(county, job.machine, lane(county, **fields))  # type: ignore[arg-type]
    county.call("town", pb.EndMachineryJobRequest(name=job.name, claimed_mu=claimed_mu))
    found: pb.MachineryJob = county.call("county", pb.ComputeMachineryJobRequest(name=job.name))
    return found


class TestPositions:
    def test_outside_a_job_are_dropped_and_counted(self, county: County) -> None:
        job = started(county)
        county.pass_time(minutes=1)
        early, inside = lane(county, 120)[0], lane(county, 60)
        early["time"] = before(county, minutes=2)
        late = {**inside[0], "time": before(county, minutes=-1)}
        assert reported(county, job.machine, [early, *inside, late]) == (7, 2)
        ((kept, dropped),) = rows(county, "SELECT point_count, dropped_count FROM job_tracks")
        assert (kept, dropped) == (7, 2)

    def test_without_a_job_leave_nothing_at_all(self, county: County) -> None:
        of = machine(county)
        terminal(county, of)
        assert reported(county, of, lane(county)) == (0, 61)
        assert rows(county, "SELECT count(*) FROM job_tracks") == [(0,)]

    def test_of_another_machine_are_dropped(self, county: County) -> None:
        job = started(county)
        other = machine(county, "DF-2204-0002")
        terminal(county, other, "nj-0002")
        county.pass_time(minutes=10)
        assert reported(county, job.machine, lane(county), "tractor_2") == (0, 61)
        assert reported(county, other, lane(county), "tractor") == (0, 61)
        assert refusal(
            county, "county", pb.ReportPositionsRequest(parent=PARENT, machine=other, points=lane(county))
        ) == "FORBIDDEN"  # fmt: skip

    def test_that_come_late_count_by_when_they_were(self, county: County) -> None:
        job = started(county)
        county.pass_time(minutes=10)
        points = lane(county, 100)
        county.call("town", pb.EndMachineryJobRequest(name=job.name, claimed_mu=1))
        county.pass_time(minutes=5)
        after = lane(county, 0)
        assert reported(county, job.machine, [*points, *after]) == (11, 1)

    def test_never_leave_and_are_not_readable_at_rest(self, county: County) -> None:
        job = started(county)
        county.pass_time(minutes=10)
        reported(county, job.machine, lane(county))
        sent = b"".join(bytes(p) for (p,) in rows(county, "SELECT payload FROM mesh_outbox"))
        assert b"jobTracks/" in sent
        event = next(
            pb.JobTrackCreated.FromString(bytes(p)).job_track
            for (p, t) in rows(county, "SELECT payload, type FROM mesh_outbox")
            if t.endswith("JobTrackCreated")
        )
        assert (event.job, len(event.points)) == ("", 0)
        ((kept,),) = rows(county, "SELECT points FROM job_tracks")
        assert "29.26111" not in str(kept)

    def test_go_after_thirty_days_and_the_area_stays(self, county: County) -> None:
        job = computed(county)
        almost, then = (county.now + datetime.timedelta(days=29, hours=h) for h in (22, 23.5))
        assert machinery.empty_tracks(county.store, almost) == 0
        assert machinery.empty_tracks(county.store, then) == 1
        assert machinery.empty_tracks(county.store, then) == 0
        assert rows(county, "SELECT points, point_count FROM job_tracks") == [(None, 61)]
        kept = county.call("county", pb.GetMachineryJobRequest(name=job.name))
        assert kept.worked_m2 == job.worked_m2


class TestJobs:
    def test_go_from_the_start_to_the_settlement(self, county: County) -> None:
        job = computed(county)
        assert job.worked_m2 == pytest.approx(1800, rel=0.01)
        assert job.worked_mu == pytest.approx(2.7, rel=0.01)
        assert (job.claimed_m2, job.point_count, job.mean_depth_cm) == (pytest.approx(5000 / 3), 61, 30)
        assert job.ratio_percent == pytest.approx(108, rel=0.01)
        verified = county.call("county", pb.VerifyMachineryJobRequest(name=job.name, verified_mu=2.4))
        assert verified.verified_m2 == 1600
        settled = county.call("county", pb.SettleMachineryJobRequest(name=job.name))
        assert settled.state == J.STATE_SETTLED
        (found, _) = county.call(
            "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-22"])
        ).figures
        assert found.value.value == "96.00"

    def test_ground_that_was_not_worked_deep_enough_does_not_count(self, county: County) -> None:
        job = computed(county, depth_cm=24)
        assert job.worked_m2 == 0
        request = pb.VerifyMachineryJobRequest(name=job.name, verified_mu=1)
        assert refusal(county, "county", request) == "RATIO_TOO_LOW"

    def test_no_more_is_verified_than_worked_or_claimed(self, county: County) -> None:
        job = computed(county)
        request = pb.VerifyMachineryJobRequest(name=job.name, verified_mu=2.6)
        assert refusal(county, "county", request) == "AREA_NOT_SHOWN"
        request.verified_mu = 2.5
        assert refusal(county, "town", request) == "FORBIDDEN"
        assert refusal(county, "county", request) == "OK"

    def test_without_a_rule_or_a_track_there_is_no_area(self, county: County) -> None:
        job = started(county)
        county.pass_time(minutes=10)
        county.call("town", pb.EndMachineryJobRequest(name=job.name, claimed_mu=1))
        request = pb.ComputeMachineryJobRequest(name=job.name)
        assert refusal(county, "county", request) == "NO_RULE_IN_FORCE"
        rule(county, effective_time=before(county, hours=2))
        assert refusal(county, "county", request) == "TRACK_IS_GONE"

    def test_a_machine_has_one_at_a_time_and_a_device_is_its_own(self, county: County) -> None:
        job = started(county, "tractor")
        wanted = {"machine": job.machine, "terminal": job.terminal, "kind": job.kind, "division": DIVISION}
        request = pb.StartMachineryJobRequest(parent=PARENT, machinery_job=wanted)
        assert refusal(county, "tractor_2", request) == "INVALID"
        assert refusal(county, "tractor", request) == "ALREADY_EXISTS"
        end = pb.EndMachineryJobRequest(name=job.name, claimed_mu=1)
        assert refusal(county, "tractor_2", end) == "INVALID"
        assert refusal(county, "tractor", end) == "OK"
        assert refusal(county, "tractor", request) == "OK"

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"machine": f"{PARENT}/machines/none"}, "machinery_job.machine"),
            ({"terminal": f"{PARENT}/terminals/none"}, "machinery_job.terminal"),
            ({"kind": J.KIND_GRAIN_HARVEST}, "machinery_job.kind"),
        ],
    )
    def test_are_refused_with_the_field(self, county: County, fields: dict[str, object], field: str) -> None:
        with pytest.raises(errors.Invalid) as refused:
            started(county, **fields)
        assert refused.value.violations[0][0] == field
