"""H-8 物联网终端与大喇叭: a device is registered, bound, heard from, breaks and is repaired; a village asks
to speak and is heard."""

from typing import Any

import pytest

from mesh import errors, resources
from tests.county import TOWN, VILLAGE, County
from tests.habitat.people import DIVISION, PARENT, device, refusal, verbs_of
from tests.habitat.test_h04_waste import bin_
from tests.loop import rows
from village.habitat.v1 import devices_pb2 as pb

D, T = pb.Device, pb.BroadcastTask


def task(county: County, who: str = "village", **fields: Any) -> pb.BroadcastTask:
    wanted = {
        "division": DIVISION, "zones": [VILLAGE], "text": "明日清运，请及时投放", "duration_s": 60,
        "volume_percent": 70, **fields,
    }  # fmt: skip
    made: pb.BroadcastTask = county.call(
        who, pb.DraftBroadcastTaskRequest(parent=PARENT, broadcast_task=wanted)
    )
    return made


class TestDevices:
    def test_breaks_and_is_repaired_and_retired(self, county: County) -> None:
        made = device(county, D.KIND_BIN_LEVEL, bin_(county).name)
        county.call("village", pb.MarkDeviceFaultyRequest(name=made.name, reason="无信号"))
        county.pass_time(hours=5)
        repaired = county.call("town", pb.RepairDeviceRequest(name=made.name))
        assert (repaired.repair_hours, repaired.repair_count) == (5, 1)
        county.call("town", pb.ActivateDeviceRequest(name=made.name))
        assert refusal(county, "county", pb.RetireDeviceRequest(name=made.name)) == "DEVICE_STILL_BOUND"
        (bound,) = county.call("county", pb.ListBindingsRequest(parent=PARENT)).bindings
        county.call("county", pb.EndBindingRequest(name=bound.name))
        assert county.call("county", pb.RetireDeviceRequest(name=made.name)).state == D.STATE_RETIRED
        assert verbs_of(county, made.name) == [
            *("registered", "bound", "activated", "marked_faulty", "repaired", "activated", "unbound"),
            "retired",
        ]  # fmt: skip

    def test_is_off_line_when_it_is_not_heard_from(self, county: County) -> None:
        made = device(county, D.KIND_BIN_LEVEL, bin_(county).name)
        county.pass_time(hours=20)
        county.call("device", pb.SeeDeviceRequest(name=made.name))
        county.pass_time(hours=20)
        county.hosted.tick()
        assert not county.call("town", pb.GetDeviceRequest(name=made.name)).overdue
        county.pass_time(hours=5)
        county.hosted.tick()
        silent = "state = ACTIVE AND overdue = true"
        listed = county.call("town", pb.ListDevicesRequest(parent=PARENT, filter=silent)).devices
        assert [d.name for d in listed] == [made.name]
        assert not county.call("device", pb.SeeDeviceRequest(name=made.name)).overdue

    def test_is_written_down_once_an_hour(self, county: County) -> None:
        made = device(county, D.KIND_BIN_LEVEL, bin_(county).name)
        county.pass_time(minutes=50)
        assert county.call("device", pb.SeeDeviceRequest(name=made.name)).etag == made.etag
        county.pass_time(minutes=10)
        seen = county.call("device", pb.SeeDeviceRequest(name=made.name))
        assert resources.moment(seen.last_seen_time) == county.now

    def test_is_known_by_its_token_alone(self, county: County) -> None:
        made = device(county, D.KIND_BIN_LEVEL, bin_(county).name)
        seen = pb.SeeDeviceRequest(name=made.name)
        assert refusal(county, "device", seen, sub="device-2") == "NOT_THE_DEVICE"
        assert refusal(county, "town", seen) == "FORBIDDEN"
        twin = {"title": "同号", "division": VILLAGE, "kind": D.KIND_LOUDSPEAKER, "subject": "device-1"}
        asked = pb.RegisterDeviceRequest(parent=PARENT, device=twin)
        assert refusal(county, "county", asked) == "ALREADY_EXISTS"

    def test_is_bound_to_one_thing_at_a_time(self, county: County) -> None:
        first, second = bin_(county).name, bin_(county).name
        made = device(county, D.KIND_BIN_LEVEL, first)
        other = device(county, D.KIND_BIN_LEVEL, second, subject="device-2")
        again = pb.CreateBindingRequest(parent=PARENT, binding={"device": made.name, "target": second})
        assert refusal(county, "county", again) == "DEVICE_STILL_BOUND"
        bound = county.call("county", pb.ListBindingsRequest(parent=PARENT, filter=f'target = "{first}"'))
        county.call("county", pb.EndBindingRequest(name=bound.bindings[0].name))
        assert refusal(county, "county", again) == "ALREADY_EXISTS"  # it has one of that kind
        assert county.call("county", pb.GetDeviceRequest(name=other.name)).target == second
        again.binding.target = first
        assert refusal(county, "county", again) == "OK"

    def test_is_bound_to_what_exists(self, county: County) -> None:
        made = device(county, D.KIND_BIN_LEVEL, bin_(county).name)
        for target in (f"{PARENT}/bins/none", "regions/360424/stations/s-1"):
            asked = pb.CreateBindingRequest(parent=PARENT, binding={"device": made.name, "target": target})
            with pytest.raises(errors.Invalid, match=r"binding\.target"):
                county.call("county", asked)


class TestBroadcasts:
    def test_is_approved_by_somebody_else_and_heard(self, county: County) -> None:
        name = task(county).name
        assert refusal(county, "village", pb.ApproveBroadcastTaskRequest(name=name)) == "FORBIDDEN"
        county.call("town", pb.ApproveBroadcastTaskRequest(name=name))
        county.call("village", pb.RequestBroadcastTaskRequest(name=name))
        many = pb.FinishBroadcastTaskRequest(name=name, speaker_count=4, receipt_count=5)
        assert refusal(county, "town", many) == "MORE_RECEIPTS_THAN_SPEAKERS"
        many.receipt_count = 3
        done = county.call("town", many)
        assert (done.state, done.speaker_count, done.receipt_count) == (T.STATE_DONE, 4, 3)
        assert verbs_of(county, name) == ["drafted", "approved", "requested", "finished"]

    def test_that_was_not_played_says_why(self, county: County) -> None:
        name = task(county).name
        county.call("county", pb.ApproveBroadcastTaskRequest(name=name))
        county.call("county", pb.RequestBroadcastTaskRequest(name=name))
        failed = county.call("county", pb.FailBroadcastTaskRequest(name=name, reason="喇叭断电"))
        assert failed.state == pb.BroadcastTask.STATE_FAILED
        assert verbs_of(county, name)[-1] == "failed"

    def test_nobody_approves_his_own(self, county: County) -> None:
        name = task(county, "town", division=TOWN).name
        assert refusal(county, "town", pb.ApproveBroadcastTaskRequest(name=name)) == "FORBIDDEN"
        assert refusal(county, "county", pb.ApproveBroadcastTaskRequest(name=name)) == "OK"

    def test_is_not_played_without_approval(self, county: County) -> None:
        asked = pb.RequestBroadcastTaskRequest(name=task(county).name)
        assert refusal(county, "village", asked) == "ACTION_NOT_ALLOWED"

    def test_a_village_speaks_to_itself_alone(self, county: County) -> None:
        with pytest.raises(errors.Invalid, match=r"broadcast_task\.zones"):
            task(county, zones=["360423100202"])
        with pytest.raises(errors.Forbidden):
            task(county, division="360423100202", zones=["360423100202"])

    def test_every_step_is_in_the_audit_trail(self, county: County) -> None:
        name = task(county).name
        county.call("town", pb.ApproveBroadcastTaskRequest(name=name))
        kept = rows(county, "SELECT method, actor FROM mesh_audit WHERE name = :n ORDER BY id", n=name)
        assert [tuple(row) for row in kept] == [
            ("DraftBroadcastTask", "cadre-1"),
            ("ApproveBroadcastTask", "clerk-1"),
        ]
