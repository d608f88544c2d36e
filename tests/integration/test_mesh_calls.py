"""Calls in a mesh (I4): any gateway will do; an answer says who gave it and how old it is; a write reaches
the owner or nobody, and says which."""

import datetime
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local import doctor
from mesh import resources
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Answer, Mesh, Node
from tests.waiting import until
from village.habitat.v1 import report_pb2 as pb

GATEWAYS = (PROVINCE, WUNING, XIUSHUI)
OWNERS = {WUNING: WUNING, XIUSHUI: PROVINCE}
UNIT = "N2360423TE5T00024K"
SERVICE = "/village.habitat.v1.ReportService"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh")) as started:
        resident = started.xiushui.token("CZ")
        until(lambda: started.province.file(XIUSHUI, token=resident).status == 200)
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh, whose line a test may leave cut or slow."""
    yield running
    running.line.restore()
    until(running.well, 30)


def gateway(mesh: Mesh, region: str) -> Node:
    return mesh.counties.get(region, mesh.province)


def reports(region: str) -> str:
    return f"/habitat/v1/regions/{region}/reports"


def official(mesh: Mesh, region: str, role: str = "KA") -> str:
    """A token of a county's official, by the county's own issuer."""
    return mesh.counties[region].token(role)


def filed(mesh: Mesh, region: str = WUNING) -> str:
    """The name of a report that was filed at its owner's."""
    found = gateway(mesh, OWNERS[region]).file(region, token=official(mesh, region, "CZ"))
    assert found.status == 200, found.body
    return str(found.body["name"])


def _of(names: list[str], node: Node) -> set[str]:
    """The ids of the events that say that these were filed, when all are at the node's broker."""
    listed = ", ".join(f"'{name}'" for name in names)
    ids = {key for (key,) in node.rows(f"SELECT event_id FROM mesh_outbox WHERE name IN ({listed})")}
    region = resources.region_in(names[0])
    return ids if len(ids) == len(names) and ids <= set(node.published(region)) else set()


def copied(mesh: Mesh, name: str) -> None:
    until(lambda: name in mesh.province.reports())


def fresh(answer: Answer, since: datetime.datetime) -> bool:
    """Whether an answer is as the owner had it after `since`."""
    return answer.as_of is not None and answer.as_of >= since


class TestAnyGateway:
    @pytest.mark.parametrize("region", OWNERS)
    @pytest.mark.parametrize("at", GATEWAYS)
    def test_gives_the_same_record_and_says_whose_answer_it_is(
        self, mesh: Mesh, at: str, region: str
    ) -> None:
        name, token = filed(mesh, region), official(mesh, region)
        begun = resources.utcnow()
        owners = gateway(mesh, OWNERS[region]).call("GET", f"/habitat/v1/{name}", token=token)
        found = gateway(mesh, at).call("GET", f"/habitat/v1/{name}", token=token)
        assert (found.status, found.body) == (200, owners.body)
        assert found.served_by == OWNERS[region]
        assert fresh(found, begun)
        request = pb.GetReportRequest(name=name)
        found = gateway(mesh, at).rpc(f"{SERVICE}/GetReport", request, pb.Report, token=token)
        assert (found.status, found.body.name) == ("OK", name)
        assert found.served_by == OWNERS[region]
        assert fresh(found, begun)

    @pytest.mark.parametrize("region", OWNERS)
    @pytest.mark.parametrize("at", GATEWAYS)
    def test_lists_and_says_how_old_the_list_is(self, mesh: Mesh, at: str, region: str) -> None:
        name, begun = filed(mesh, region), resources.utcnow()
        token, wanted = official(mesh, region), at if at == OWNERS[region] else PROVINCE
        if region == WUNING:
            copied(mesh, name)

        def listed() -> Answer | None:
            query = "?order_by=file_time%20desc"
            found = gateway(mesh, at).call("GET", f"{reports(region)}{query}", token=token)
            assert found.status == 200, found.body
            return found if fresh(found, begun) else None

        found = until(listed)
        assert found.served_by == wanted
        assert found.body["reports"][0]["name"] == name

    @pytest.mark.parametrize("region", OWNERS)
    def test_takes_a_report_and_every_step_of_it(self, mesh: Mesh, region: str) -> None:
        owner, token = OWNERS[region], official(mesh, region)
        for at in GATEWAYS:
            there = gateway(mesh, at)
            made = there.file(region, token=official(mesh, region, "CZ"))
            assert (made.status, made.served_by) == (200, owner)
            name = made.body["name"]
            accepted = there.call("POST", f"/habitat/v1/{name}:accept", {}, token=token)
            assert (accepted.status, accepted.served_by) == (200, owner)
            assert accepted.body["state"] == "STATE_ACCEPTED"
            wanted: Any = {"name": name, "level": "LEVEL_TOWNSHIP", "unit": UNIT, "unit_title": "城管局"}
            request = pb.AssignReportRequest(**wanted)
            assigned = there.rpc(f"{SERVICE}/AssignReport", request, pb.Report, token=token)
            assert (assigned.status, assigned.served_by) == ("OK", owner), assigned.body
            kept = gateway(mesh, owner).rows(f"SELECT state, version FROM reports WHERE name = '{name}'")
            assert [version for _, version in kept] == [3]

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_lists_to_a_resident_what_he_filed(self, mesh: Mesh, at: str) -> None:
        """Whose a report is does not leave the county: only the county can answer this."""
        me = mesh.wuning.token("CZ", subject=f"resident-{uuid.uuid4()}")
        name = mesh.wuning.file(token=me).body["name"]
        found = gateway(mesh, at).call("GET", reports(WUNING), token=me)
        assert [r["name"] for r in found.body["reports"]] == [name]
        assert found.served_by == WUNING

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_lists_what_never_leaves_the_county_from_the_county(self, mesh: Mesh, at: str) -> None:
        name = filed(mesh)
        path = f"/habitat/v1/regions/{WUNING}/auditEntries?page_size=500"
        found = gateway(mesh, at).call("GET", path, token=official(mesh, WUNING, "AUD"))
        assert (found.status, found.served_by) == (200, WUNING), found.body
        assert name in [entry["record"] for entry in found.body["entries"]]

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_reads_from_the_owner_or_a_copy_as_it_is_told(self, mesh: Mesh, at: str) -> None:
        name, token = filed(mesh), official(mesh, WUNING)
        copied(mesh, name)
        copy = WUNING if at == WUNING else PROVINCE  # who has the record itself needs no copy
        for path in (f"/habitat/v1/{name}", reports(WUNING)):
            for wanted, served in (("owner", WUNING), ("replica", copy)):
                told = {"x-village-read": wanted}
                found = gateway(mesh, at).call("GET", path, token=token, headers=told)
                assert (found.status, found.served_by) == (200, served)
                assert found.as_of is not None

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_refuses_to_read_from_what_there_is_not(self, mesh: Mesh, at: str) -> None:
        told = {"x-village-read": "nearest"}
        found = gateway(mesh, at).call("GET", reports(WUNING), token=official(mesh, WUNING), headers=told)
        assert (found.status, found.reason) == (400, "INVALID")
        assert [v["field"] for v in found.detail("BadRequest")["fieldViolations"]] == ["x-village-read"]

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_refuses_a_region_that_the_mesh_does_not_know(self, mesh: Mesh, at: str) -> None:
        token = mesh.province.token("PA")
        found = gateway(mesh, at).call("GET", reports("360499"), token=token)
        assert (found.status, found.reason) == (400, "NOT_OWNED_HERE")
        assert "360499" in found.body["message"]

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_refuses_the_officials_of_elsewhere(self, mesh: Mesh, at: str) -> None:
        there = gateway(mesh, at)
        for region, other in ((WUNING, XIUSHUI), (XIUSHUI, WUNING)):
            foreign, name = official(mesh, other), filed(mesh, region)
            assert there.call("GET", f"/habitat/v1/{name}", token=foreign).reason == "FORBIDDEN"
            assert there.call("GET", reports(region), token=foreign).reason == "FORBIDDEN"
            assert there.call("POST", f"/habitat/v1/{name}:accept", {}, token=foreign).reason == "FORBIDDEN"
            assert there.file(region, token=foreign).reason == "FORBIDDEN"

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_says_that_nobody_has_a_domain(self, mesh: Mesh, at: str) -> None:
        there, token = gateway(mesh, at), official(mesh, WUNING)
        assert there.call("GET", f"/cooking/v1/regions/{WUNING}/pots", token=token).status == 404
        path, request = "/village.cooking.v1.PotService/GetPot", pb.GetReportRequest(name="x")
        assert there.rpc(path, request, pb.Report, token=token).status == "UNIMPLEMENTED"


class TestLineThatIsCut:
    def test_reads_come_from_the_copy_and_say_how_old_it_is(self, mesh: Mesh) -> None:
        name, token = filed(mesh), mesh.province.token("PA")
        copied(mesh, name)
        mesh.line.cut()
        cut, path = resources.utcnow(), f"/habitat/v1/{name}"
        for at in (mesh.province, mesh.xiushui):
            for asked in (path, reports(WUNING)):
                found = at.call("GET", asked, token=token)
                assert (found.status, found.served_by) == (200, PROVINCE)
                assert found.as_of is not None
                assert found.as_of <= cut
            owners = at.call("GET", path, token=token, headers={"x-village-read": "owner"})
            assert (owners.status, owners.reason) == (503, "NOT_DELIVERED")
            assert owners.detail("RetryInfo")["retryDelay"] == "1s"

    def test_what_a_copy_cannot_know_is_not_denied(self, mesh: Mesh) -> None:
        resident = mesh.wuning.token("CZ", subject="resident-7")
        mesh.line.cut()
        name = mesh.wuning.file(token=resident).body["name"]
        for token in (mesh.province.token("PA"), resident):
            found = mesh.province.call("GET", f"/habitat/v1/{name}", token=token)
            assert (found.status, found.reason) == (503, "NOT_DELIVERED")
        assert mesh.province.call("GET", reports(WUNING), token=resident).status == 503

    def test_writes_are_refused_at_once_and_nothing_is_written(self, mesh: Mesh) -> None:
        name, token = filed(mesh), official(mesh, WUNING)
        copied(mesh, name)
        mesh.line.cut()
        before = [node.reports() for node in (mesh.wuning, mesh.province)]
        for at in (mesh.province, mesh.xiushui):
            for verb in ("accept", "reject"):
                begun = time.monotonic()
                refused = at.call("POST", f"/habitat/v1/{name}:{verb}", {"reason": "重复"}, token=token)
                assert time.monotonic() - begun < 2
                assert (refused.status, refused.reason) == (503, "NOT_DELIVERED")
                assert refused.detail("RetryInfo")
        mesh.line.restore()
        until(mesh.well)
        assert [node.reports() for node in (mesh.wuning, mesh.province)] == before

    def test_the_county_goes_on_and_all_catches_up_by_itself(self, mesh: Mesh) -> None:
        mesh.line.cut()
        token = official(mesh, WUNING)
        names = [filed(mesh) for _ in range(5)]
        accepted = mesh.wuning.call("POST", f"/habitat/v1/{names[0]}:accept", {}, token=token)
        assert (accepted.status, accepted.served_by) == (200, WUNING)
        assert mesh.wuning.call("GET", reports(WUNING), token=token).served_by == WUNING
        away = mesh.wuning.call("GET", reports(XIUSHUI), token=official(mesh, XIUSHUI))
        assert (away.status, away.reason) == (503, "NOT_DELIVERED")
        assert not set(names) & mesh.province.reports().keys()
        mesh.line.restore()
        until(mesh.caught_up, 10)
        assert set(names) <= mesh.province.reports().keys()
        found = mesh.province.call("GET", f"/habitat/v1/{names[0]}", token=token)
        assert (found.served_by, found.body["state"]) == (WUNING, "STATE_ACCEPTED")


class TestLineThatHangs:
    def test_a_write_ends_in_time_and_repeated_is_done_once(self, mesh: Mesh) -> None:
        name, token = filed(mesh), official(mesh, WUNING)
        copied(mesh, name)
        path, body = f"/habitat/v1/{name}:accept", {"requestId": str(uuid.uuid4())}
        mesh.line.hang()
        begun = time.monotonic()
        refused = mesh.province.call("POST", path, body, token=token, headers={"grpc-timeout": "2S"})
        assert (refused.status, refused.reason) == (504, "DEADLINE_EXCEEDED")
        assert time.monotonic() - begun < 2.5
        mesh.line.restore()
        until(mesh.well, 30)
        again = [
            at.call("POST", path, body, token=token) for at in (mesh.province, mesh.wuning, mesh.xiushui)
        ]
        assert [a.status for a in again] == [200, 200, 200]
        assert {a.body["etag"] for a in again} == {"2"}

    def test_a_read_comes_from_the_copy_before_time_runs_out(self, mesh: Mesh) -> None:
        name, token = filed(mesh), mesh.province.token("PA")
        copied(mesh, name)
        mesh.line.hang()
        hung = resources.utcnow()
        found = mesh.province.call("GET", f"/habitat/v1/{name}", token=token, headers={"grpc-timeout": "2S"})
        assert (found.status, found.served_by) == (200, PROVINCE)
        assert found.as_of is not None
        assert found.as_of <= hung + datetime.timedelta(seconds=1)


class TestServicesThatAreDead:
    def test_are_told_of_and_others_are_served(self, mesh: Mesh) -> None:
        name = filed(mesh)
        copied(mesh, name)
        with mesh.wuning.without("services"):
            token, soon, path = official(mesh, WUNING), {"grpc-timeout": "1S"}, f"/habitat/v1/{name}:accept"
            for at in (mesh.province, mesh.xiushui, mesh.wuning):
                # one that was under way when they died may have been done, and is told so
                until(lambda at=at: at.call("POST", path, {}, token=token, headers=soon).status == 503, 5)  # type: ignore[misc]
            copy = mesh.province.call("GET", f"/habitat/v1/{name}", token=mesh.province.token("PA"))
            assert (copy.status, copy.served_by) == (200, PROVINCE)
            for at in (mesh.province, mesh.xiushui):
                assert at.file(XIUSHUI, token=official(mesh, XIUSHUI, "CZ")).status == 200
        until(lambda: mesh.wuning.file(token=mesh.wuning.token("CZ")).status == 200, 30)


class TestDeferredCalls:
    """A call that may wait is taken for an owner that cannot be reached, and done once (转办)."""

    def settled(self, mesh: Mesh, delivery: str, state: str = "STATE_APPLIED") -> Answer:
        return until(
            lambda: (
                (found := mesh.xiushui.call("GET", f"/habitat/v1/{delivery}")).body.get("state") == state
                and found
            ),
            20,
        )  # type: ignore[no-any-return]

    def test_a_report_filed_meanwhile_is_there_afterwards_with_its_time(self, mesh: Mesh) -> None:
        before, token = set(mesh.wuning.reports()), mesh.wuning.token("CZ")
        mesh.line.cut()
        words = "只有县里能看到的描述"
        taken = mesh.province.file(token=token, description=words)
        delivery, name = taken.headers["x-village-delivery"], taken.body["name"]
        assert (taken.status, taken.body["state"]) == (200, "STATE_UNSPECIFIED")
        waiting = mesh.province.call("GET", f"/habitat/v1/{delivery}").body
        assert (waiting["state"], waiting["record"]) == ("STATE_QUEUED", name)
        assert not waiting["request"]
        assert not waiting["caller"]
        assert words.encode() not in mesh.province.raw("habitat")
        asked = waiting["callTime"]
        mesh.line.restore()
        self.settled(mesh, delivery)
        assert set(mesh.wuning.reports()) - before == {name}
        found = mesh.wuning.call("GET", f"/habitat/v1/{name}", token=token).body
        assert found["fileTime"] == asked
        until(mesh.caught_up, 20)

    def test_a_direct_attempt_that_had_arrived_after_all_counts_once(self, mesh: Mesh) -> None:
        before, token = set(mesh.wuning.reports()), mesh.wuning.token("CZ")
        mesh.line.hang(down=False)  # what goes down arrives, the answer does not come back
        taken = mesh.province.file(token=token, headers={"grpc-timeout": "3S"})
        delivery, name = taken.headers["x-village-delivery"], taken.body["name"]
        mesh.line.restore()
        self.settled(mesh, delivery)
        assert set(mesh.wuning.reports()) - before == {name}

    def test_one_that_is_repeated_while_it_waits_is_the_same_and_is_done_once(self, mesh: Mesh) -> None:
        before, token = set(mesh.wuning.reports()), mesh.wuning.token("CZ")
        path = f"/habitat/v1/regions/{PROVINCE}/deliveries?pageSize=500"
        mesh.line.cut()
        once: dict[str, Any] = {"token": token, "request_id": str(uuid.uuid4())}
        first = mesh.province.file(**once)
        for at in (mesh.province, mesh.xiushui):  # whichever way it comes
            again = at.file(**once)
            assert again.headers["x-village-delivery"] == first.headers["x-village-delivery"]
            assert again.body == first.body
        other = mesh.province.file(**once, description="另一件事")
        assert (other.status, other.reason) == (400, "INVALID")
        assert [v["field"] for v in other.detail("BadRequest")["fieldViolations"]] == ["request_id"]
        fresh = mesh.province.file(token=token, request_id=str(uuid.uuid4()))
        assert fresh.headers["x-village-delivery"] != first.headers["x-village-delivery"]
        listed = mesh.province.call("GET", path, token=mesh.province.token("ADM")).body["deliveries"]
        names = {first.body["name"], fresh.body["name"]}
        assert sorted(d["record"] for d in listed if d["state"] == "STATE_QUEUED") == sorted(names)
        mesh.line.restore()
        for taken in (first, fresh):
            self.settled(mesh, taken.headers["x-village-delivery"])
        assert set(mesh.wuning.reports()) - before == names
        until(mesh.well)
        done = mesh.province.file(**once)
        assert (done.served_by, done.body["name"]) == (WUNING, first.body["name"])

    def test_one_that_the_county_was_asked_itself_meanwhile_names_its_record(self, mesh: Mesh) -> None:
        before, token = set(mesh.wuning.reports()), mesh.wuning.token("CZ")
        once: dict[str, Any] = {"token": token, "request_id": str(uuid.uuid4())}
        mesh.line.cut()
        taken, made = mesh.province.file(**once), mesh.wuning.file(**once)
        mesh.line.restore()
        told = self.settled(mesh, taken.headers["x-village-delivery"]).body
        assert set(mesh.wuning.reports()) - before == {made.body["name"]}
        assert told["record"] == made.body["name"]

    def test_what_the_owner_refuses_is_said(self, mesh: Mesh) -> None:
        name = filed(mesh)
        copied(mesh, name)
        province = mesh.province.token("PA")
        mesh.line.cut()
        taken = mesh.province.call("POST", f"/habitat/v1/{name}:reopen", {"reason": "重办"}, token=province)
        mesh.line.restore()
        refused = self.settled(mesh, taken.headers["x-village-delivery"], "STATE_REFUSED")
        assert refused.body["refusal"].startswith("ACTION_NOT_ALLOWED")


class TestEvents:
    """What another node records for a county is announced at the county's own broker (数据回流)."""

    def test_of_a_county_that_runs_nothing_reach_its_own_subscribers_once(self, mesh: Mesh) -> None:
        names = [filed(mesh, XIUSHUI) for _ in range(5)]
        wanted = until(lambda: _of(names, mesh.province), 20)
        found = until(lambda: (got := mesh.xiushui.published(XIUSHUI)) and wanted <= set(got) and got, 20)
        assert len(found) == len(set(found))

    def test_of_a_county_stay_its_own_and_its_province_s(self, mesh: Mesh) -> None:
        name = filed(mesh)
        copied(mesh, name)
        until(lambda: _of([name], mesh.province), 20)
        assert mesh.xiushui.published(WUNING) == []
        assert mesh.wuning.published(XIUSHUI) == []


class TestDoctor:
    """What an administrator is told of the mesh."""

    def told(self, mesh: Mesh, verdict: str) -> str:
        return "\n".join(f.what for f in doctor.examine(mesh.wuning.data) if f.verdict == verdict)

    def test_knows_certificate_trust_line_and_copies(self, mesh: Mesh) -> None:
        well = self.told(mesh, "ok")
        for said in ("the certificate is good for 4", "the trust bundle is good for 4", "can be reached",
                     "the copy of habitat of 360000 is 0 events behind"):  # fmt: skip
            assert said in well

    def test_says_that_the_line_is_away(self, mesh: Mesh) -> None:
        mesh.line.cut()
        assert "the province at 127.0.0.1:" in self.told(mesh, "bad")


class TestSupervision:
    """督办: above the county somebody urges and sends back; the county's clock and history show it."""

    def test_an_urged_report_says_so_at_the_county(self, mesh: Mesh) -> None:
        name, province = filed(mesh), mesh.province.token("PA", subject="supervisor-1")
        urged = mesh.province.call("POST", f"/habitat/v1/{name}:urge", {"reason": "尽快办理"}, token=province)
        assert (urged.status, urged.served_by, urged.body["urgeCount"]) == (200, WUNING, 1)
        steps = mesh.wuning.call("GET", f"/habitat/v1/{name}/steps", token=official(mesh, WUNING)).body[
            "steps"
        ]
        assert [(s["action"], s["actor"]) for s in steps[1:]] == [("urge", "supervisor-1")]

    def test_nobody_above_edits_what_is_the_county_s(self, mesh: Mesh) -> None:
        name = filed(mesh)
        refused = mesh.province.call(
            "POST", f"/habitat/v1/{name}:accept", {}, token=mesh.province.token("PA")
        )
        assert (refused.status, refused.reason) == (403, "FORBIDDEN")
