"""A city between its province and its county (地级市): its node is the owner of what is its own; what its
county keeps stays the county's, and is seen and supervised from the city's gateway."""

import datetime
from collections.abc import Iterator

import pytest

from mesh import resources
from tests.mesh import PROVINCE, WUNING, Answer, Mesh, Node
from tests.waiting import until

CITY = "360400"
GATEWAYS = (PROVINCE, CITY, WUNING)
DAY = datetime.timedelta(days=1)
REPORTS = f"/habitat/v1/regions/{CITY}/reports"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh"), {CITY: ("habitat",), WUNING: ("habitat",)}) as started:
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh, whose lines a test may leave cut."""
    yield running
    for node in running.counties.values():
        assert node.line is not None
        node.line.restore()
    for region in (CITY, WUNING):
        until(lambda region=region: running.well(region), 30)  # type: ignore[misc]


def gateway(mesh: Mesh, region: str) -> Node:
    return mesh.counties.get(region, mesh.province)


def filed(mesh: Mesh) -> str:
    """The name of a report that was filed at the county: reports are a county's."""
    found = mesh.wuning.file(token=mesh.wuning.token("CZ"))
    assert (found.status, found.served_by) == (200, WUNING), found.body
    return str(found.body["name"])


def supervisor(mesh: Mesh) -> str:
    """A token of the city's own issuer."""
    return mesh.counties[CITY].token("CI", subject="city-supervisor")


def copied(mesh: Mesh, region: str = WUNING) -> None:
    until(lambda: mesh.caught_up(region))


def deputed(mesh: Mesh, at: str) -> Answer:
    """An official of the city names a deputy, which his city keeps, at some gateway."""
    now = resources.utcnow()
    times = {"startTime": resources.rfc3339(now), "endTime": resources.rfc3339(now + DAY)}
    path = f"/habitat/v1/regions/{CITY}/delegations"
    return gateway(mesh, at).call("POST", path, {"deputy": "officer-b", **times}, token=supervisor(mesh))


class TestCity:
    @pytest.mark.parametrize("at", GATEWAYS)
    def test_is_asked_for_what_is_its_own_from_any_gateway(self, mesh: Mesh, at: str) -> None:
        made = deputed(mesh, at)
        assert (made.status, made.served_by) == (200, CITY), made.body
        path = f"/habitat/v1/regions/{CITY}/delegations?pageSize=500"
        found = gateway(mesh, at).call("GET", path, token=supervisor(mesh))
        assert (found.status, found.served_by) == (200, CITY), found.body
        assert made.body["name"] in {d["name"] for d in found.body["delegations"]}
        kept = {node.region: node.rows("SELECT name FROM delegations") for node in mesh.counties.values()}
        assert (made.body["name"],) in kept[CITY]
        assert kept[WUNING] == []

    def test_s_events_and_its_county_s_are_each_the_owner_s_and_the_province_s(self, mesh: Mesh) -> None:
        name = filed(mesh)
        assert deputed(mesh, CITY).status == 200
        copied(mesh)
        for region in (CITY, WUNING):
            wanted = mesh.counties[region].logged(region)
            assert wanted
            until(lambda region=region, wanted=wanted: mesh.province.logged(region) == wanted)  # type: ignore[misc]
            ids = [key for *_, key in wanted]
            until(lambda region=region, ids=ids: mesh.province.published(region) == ids)  # type: ignore[misc]
        city, county = mesh.counties[CITY], mesh.wuning
        assert name in county.reports()
        assert (city.reports(), city.logged(WUNING), city.published(WUNING)) == ({}, [], [])
        # what is above a county comes down to it
        until(lambda: county.logged(CITY) == city.logged(CITY))

    @pytest.mark.parametrize("at", GATEWAYS)
    def test_s_list_holds_its_county_s_too(self, mesh: Mesh, at: str) -> None:
        """A list is of a place and all below it, whoever keeps it."""
        name = filed(mesh)
        copied(mesh)
        found = gateway(mesh, at).call("GET", f"{REPORTS}?pageSize=500", token=supervisor(mesh))
        assert (found.status, found.served_by) == (200, PROVINCE)
        assert name in {r["name"] for r in found.body["reports"]}

    def test_answers_by_itself_when_it_is_cut_off_and_does_not_say_that_this_is_all(self, mesh: Mesh) -> None:
        city, token = mesh.counties[CITY], supervisor(mesh)
        filed(mesh)
        told = {"x-village-read": "owner"}
        owners = city.call("GET", REPORTS, token=token, headers=told)
        assert city.line is not None
        city.line.cut()
        alone = city.call("GET", REPORTS, token=token)
        for found in (owners, alone):
            assert (found.status, found.served_by, found.body["reports"]) == (200, CITY, [])
            assert found.as_of is None, "part of it is not here, and nobody says how old that is"
        assert deputed(mesh, CITY).served_by == CITY
        away = deputed(mesh, PROVINCE)
        assert (away.status, away.reason) == (503, "NOT_DELIVERED")


class TestSupervision:
    def urge(self, mesh: Mesh, name: str) -> Answer:
        body = {"reason": "请尽快办理"}
        return mesh.counties[CITY].call("POST", f"/habitat/v1/{name}:urge", body, token=supervisor(mesh))

    def test_of_the_city_reaches_the_county_through_the_province(self, mesh: Mesh) -> None:
        name = filed(mesh)
        urged = self.urge(mesh, name)
        assert (urged.status, urged.served_by, urged.body["urgeCount"]) == (200, WUNING, 1), urged.body
        path, official = f"/habitat/v1/{name}/steps", mesh.wuning.token("KA")
        steps = mesh.wuning.call("GET", path, token=official).body["steps"]
        assert [(s["action"], s["actor"], s["role"]) for s in steps[1:]] == [
            ("urge", "city-supervisor", "CI")
        ]

    def test_of_the_city_waits_for_a_county_that_is_away(self, mesh: Mesh) -> None:
        name = filed(mesh)
        copied(mesh)
        mesh.line.cut()
        urged = self.urge(mesh, name)
        assert urged.status == 200, urged.body
        delivery = f"/habitat/v1/{urged.headers['x-village-delivery']}"
        mesh.line.restore()
        city = mesh.counties[CITY]
        until(lambda: city.call("GET", delivery).body.get("state") == "STATE_APPLIED")
        found = mesh.wuning.call("GET", f"/habitat/v1/{name}", token=mesh.wuning.token("KA"))
        assert found.body["urgeCount"] == 1

    def test_does_not_reach_beyond_the_city(self, mesh: Mesh) -> None:
        """Nor does a county's official reach up to the city."""
        token = supervisor(mesh)
        refused = [
            mesh.counties[CITY].call("GET", f"/habitat/v1/regions/{PROVINCE}/reports", token=token),
            *(gateway(mesh, at).call("GET", REPORTS, token=mesh.wuning.token("KA")) for at in GATEWAYS),
        ]
        assert [(r.status, r.reason) for r in refused] == [(403, "FORBIDDEN")] * 4
