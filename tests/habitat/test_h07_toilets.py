"""H-7 厕所革命: a toilet is registered, breaks, and is put right by an order that somebody else verifies."""

import datetime

import pytest

from mesh import errors, resources
from tests.county import PHOTO, County
from tests.habitat.people import AT_VILLAGE, DIVISION, HERE, PARENT, before, refusal
from tests.loop import rows
from village.habitat.v1 import figure_pb2, limit_policy_pb2
from village.habitat.v1 import toilet_pb2 as pb

T, O = pb.Toilet, pb.ServiceOrder  # noqa: E741


def toilet(county: County, **fields: object) -> pb.Toilet:
    wanted = {
        "title": "北岸公厕", "division": DIVISION, "location": HERE, "seats": 6,
        "treatment": T.TREATMENT_SEPTIC_TANK, "condition": T.CONDITION_GOOD, **fields,
    }  # fmt: skip
    made: pb.Toilet = county.call("village", pb.CreateToiletRequest(parent=PARENT, toilet=wanted))
    return made


def order(county: County, of: pb.Toilet, kind: int = O.KIND_REPAIR) -> pb.ServiceOrder:
    wanted = {"toilet": of.name, "kind": kind, "description": "冲水箱漏水"}
    made: pb.ServiceOrder = county.call(
        "village", pb.FileServiceOrderRequest(parent=PARENT, service_order=wanted)
    )
    return made


def finished(county: County, kind: int = O.KIND_REPAIR, **fields: object) -> str:
    name = order(county, toilet(county), kind).name
    county.call("town", pb.AssignServiceOrderRequest(name=name, **AT_VILLAGE))
    county.call("village", pb.StartServiceOrderRequest(name=name))
    county.call("village", pb.FinishServiceOrderRequest(name=name, evidence=[PHOTO], **fields))
    return name


class TestH7:
    def test_an_order_is_called_off_until_work_begins(self, county: County) -> None:
        name = order(county, toilet(county)).name
        cancelled = county.call("town", pb.CancelServiceOrderRequest(name=name, reason="重复报修"))
        assert cancelled.state == O.STATE_CANCELLED
        done = finished(county)
        assert refusal(county, "town", pb.CancelServiceOrderRequest(name=done)) == "ACTION_NOT_ALLOWED"

    def test_the_county_sets_the_limits_of_its_service_orders(self, county: County) -> None:
        wanted = {
            "work": "serviceOrders", "effective_time": before(county, days=-1), "basis": "县农村厕所管护办法",
            "escalate_working_days": 2,
            "limits": [
                {"action": "file", "natural": {"seconds": 86_400}}, {"action": "assign", "working_days": 2},
                *({"action": action, "working_days": 1} for action in ("finish", "verify", "send_back")),
            ],
        }  # fmt: skip
        asked = limit_policy_pb2.IssueLimitPolicyRequest(parent=PARENT, limit_policy=wanted)
        issued = county.call("county", asked)
        listed = limit_policy_pb2.ListLimitPoliciesRequest(parent=PARENT, filter='work = "serviceOrders"')
        assert issued.name in [p.name for p in county.call("town", listed).limit_policies]
        del asked.limit_policy.limits[0]
        assert refusal(county, "county", asked) == "INVALID"
        asked.limit_policy.limits.add(action="file", working_days=2)
        asked.limit_policy.effective_time.CopyFrom(resources.stamp(county.now - datetime.timedelta(days=1)))
        assert refusal(county, "county", asked) == "EFFECTIVE_TIME_PASSED"

    def test_an_order_goes_from_broken_to_closed(self, county: County) -> None:
        name = finished(county)
        assert county.call("town", pb.VerifyServiceOrderRequest(name=name)).state == O.STATE_VERIFIED
        closed = county.call("town", pb.CloseServiceOrderRequest(name=name))
        assert (closed.state, closed.HasField("due_time")) == (O.STATE_CLOSED, False)
        subjects = [s for (s,) in rows(county, "SELECT subject FROM mesh_outbox ORDER BY id")]
        verbs = [s.rpartition(".")[2] for s in subjects if ".serviceOrder." in s or ".service_order." in s]
        assert verbs == ["filed", "assigned", "started", "finished", "verified", "closed"]

    def test_whoever_did_the_work_does_not_verify_it(self, county: County) -> None:
        name = order(county, toilet(county)).name
        county.call("town", pb.AssignServiceOrderRequest(name=name, level=2, unit="N2360423TE5T00024K"))
        county.call("town", pb.StartServiceOrderRequest(name=name))
        county.call("town", pb.FinishServiceOrderRequest(name=name, evidence=[PHOTO]))
        assert refusal(county, "town", pb.VerifyServiceOrderRequest(name=name)) == "FORBIDDEN"
        assert refusal(county, "county", pb.VerifyServiceOrderRequest(name=name)) == "OK"

    def test_what_is_not_good_goes_back_and_a_missed_limit_rises(self, county: County) -> None:
        name = finished(county)
        back = county.call("county", pb.SendBackServiceOrderRequest(name=name, reason="仍漏水"))
        assert back.state == O.STATE_IN_PROGRESS
        county.pass_time(days=8)
        county.hosted.tick()
        late = county.call("county", pb.GetServiceOrderRequest(name=name))
        assert late.overdue
        assert late.escalation_level >= 2

    def test_emptying_says_how_much(self, county: County) -> None:
        name = finished(county, O.KIND_EMPTYING, emptied_m3=2.5)
        assert county.call("county", pb.GetServiceOrderRequest(name=name)).emptied_m3 == 2.5
        with pytest.raises(errors.Invalid, match="emptied_m3"):
            finished(county, O.KIND_REPAIR, emptied_m3=2.5)

    def test_an_order_is_for_a_toilet_of_the_county(self, county: County) -> None:
        wanted = {"toilet": f"{PARENT}/toilets/none", "kind": O.KIND_REPAIR}
        with pytest.raises(errors.Invalid, match=r"service_order\.toilet"):
            county.call("village", pb.FileServiceOrderRequest(parent=PARENT, service_order=wanted))

    def test_a_change_is_checked_as_a_whole(self, county: County) -> None:
        made = toilet(county)
        with pytest.raises(errors.Invalid, match=r"toilet\.seats"):
            county.call(
                "town",
                pb.UpdateToiletRequest(name=made.name, toilet={"seats": 0}, update_mask={"paths": ["seats"]}),
            )
        changed = county.call("town", pb.UpdateToiletRequest(name=made.name, toilet={"seats": 8}))
        assert (changed.seats, changed.title, changed.etag) == (8, made.title, "2")

    def test_figures_say_what_they_were_computed_from(self, county: County) -> None:
        toilet(county)
        toilet(county, condition=T.CONDITION_IMPAIRED, title="下街公厕")
        toilet(county, condition=T.CONDITION_GOOD, title="上街公厕")
        name = order(county, toilet(county)).name
        county.call("town", pb.AssignServiceOrderRequest(name=name, **AT_VILLAGE))
        county.call("village", pb.StartServiceOrderRequest(name=name))
        county.pass_time(hours=5)
        county.call("village", pb.FinishServiceOrderRequest(name=name, evidence=[PHOTO]))
        found = county.call("county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-7"])).figures
        assert [(f.id, f.numerator, f.denominator, f.value.value, f.unit) for f in found] == [
            ("H-7.1", 3, 4, "75.00", "%"), ("H-7.2", 5, 1, "5.00", "h"),
        ]  # fmt: skip
        assert found[0].formula == "count(toilets, condition = GOOD) / count(toilets)"
        elsewhere = county.call("other_town", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-7.1"]))
        assert (elsewhere.figures[0].denominator, elsewhere.figures[0].HasField("value")) == (0, False)
        assert (
            refusal(county, "county", figure_pb2.ComputeFiguresRequest(parent=PARENT, ids=["H-99"]))
            == "INVALID"
        )

    def test_a_neighbouring_township_sees_and_changes_nothing(self, county: County) -> None:
        made = toilet(county)
        assert refusal(county, "other_town", pb.GetToiletRequest(name=made.name)) == "FORBIDDEN"
        assert (
            refusal(county, "other_town", pb.UpdateToiletRequest(name=made.name, toilet={"seats": 1}))
            == "FORBIDDEN"
        )
        listed = county.call("other_town", pb.ListToiletsRequest(parent=PARENT))
        assert not listed.toilets
        assert [t.name for t in county.call("county", pb.ListToiletsRequest(parent=PARENT)).toilets] == [
            made.name
        ]
