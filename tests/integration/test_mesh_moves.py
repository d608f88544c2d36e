"""A domain that moves between nodes (移交): its people find at the new owner all that they had, whichever
gateway they ask; at no moment two nodes write for it (I3), and what was acknowledged is kept (I1, I2)."""

import contextlib
import functools
import hashlib
import http.client
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest

from tests.mesh import PROVINCE, WUNING, XIUSHUI, Answer, Mesh, Node, report
from tests.waiting import until
from village.type.v1 import attachment_pb2

REPORTS = f"/habitat/v1/regions/{WUNING}/reports"
NAME, PHONE, WORDS = "喻楚楚", "13870001234", "院子后面的沟里"
UNIT = "N2360423TE5T00024K"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with Mesh(tmp_path_factory.mktemp("mesh")) as started:
        yield started


@pytest.fixture
def mesh(running: Mesh) -> Iterator[Mesh]:
    """The mesh, the county being the owner of its own; afterwards again."""
    yield running
    running.line.restore()
    path = f"/mesh/v1/regions/{PROVINCE}/handovers?pageSize=500"
    for each in running.ask("GET", path).body.get("handovers", ()):
        if each["state"] in ("STATE_FREEZING", "STATE_COPYING"):
            running.ask("POST", f"/mesh/v1/{each['name']}:revert", {})
        running.reaches(each["name"], "DONE", "REVERTED", seconds=60)
    if writer(running) != WUNING:
        running.move(WUNING)
    until(running.well, 30)


def writer(mesh: Mesh) -> str:
    """Who is the owner by the province's directory."""
    found = mesh.province.call("GET", "/mesh/v1/node", token=mesh.province.token("ADM")).body
    return next(str(g["node"]) for g in found["grants"] if (g["region"], g["domain"]) == (WUNING, "habitat"))


def node(mesh: Mesh, region: str) -> Node:
    return mesh.counties.get(region, mesh.province)


def upload(at: Node, content: bytes, token: str) -> dict[str, Any]:
    """Keeps a file, as a resident does before he files a report."""
    path = "/village.habitat.v1.AttachmentService/UploadAttachment"
    request = attachment_pb2.UploadAttachmentRequest
    parts = [request(parent=f"regions/{WUNING}", content={"data": content[:1000]})]
    parts += [request(content={"data": content[n : n + 100_000]}) for n in range(1000, len(content), 100_000)]
    with grpc.insecure_channel(f"127.0.0.1:{at.port}") as channel:
        ask = channel.stream_unary(path, request.SerializeToString, attachment_pb2.Attachment.FromString)
        kept = ask(iter(parts), metadata=[("authorization", f"Bearer {token}")], timeout=30)
    return {"sha256": kept.sha256, "mediaType": kept.media_type, "sizeBytes": str(kept.size_bytes)}


def download(at: Node, path: str, token: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=30)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def filed(at: Node, token: str, **more: Any) -> str:
    """The name of a report, filed when the owner writes again."""

    def ask() -> str:
        found = at.call("POST", REPORTS, {**report(), **more}, token=token)
        return str(found.body["name"]) if found.status == 200 else ""

    return str(until(ask))


def kept_of(at: Node, name: str) -> dict[str, Any]:
    """The row of a report, with what only its owner has."""
    columns = "owner, alarm_time, due_time, version, digest"
    ((owner, alarm, due, version, digest),) = at.rows(f"SELECT {columns} FROM reports WHERE name = '{name}'")
    return {"owner": owner, "alarm": alarm, "due": due, "version": version, "digest": digest}


class Before:
    """A report with everything that may hang on one, as the county has it before the move."""

    def __init__(self, mesh: Mesh) -> None:
        county, self.subject = mesh.wuning, f"resident-{uuid.uuid4()}"
        self.me = county.token("CZ", subject=self.subject)
        self.officer = county.token("KA")
        self.content = b"%PDF-1.7 " + bytes(hashlib.sha256(b"x").digest()) * 20_000  # three pages of a file
        photo = upload(county, self.content, self.me)
        self.once = str(uuid.uuid4())
        self.body = {
            **report(WUNING, WORDS), "photos": [photo], "contact": {"personName": NAME, "phone": PHONE},
        }  # fmt: skip
        self.path = f"{REPORTS}?requestId={self.once}"
        self.answer = county.call("POST", self.path, self.body, token=self.me)
        assert self.answer.status == 200, self.answer.body
        self.name, self.digest = str(self.answer.body["name"]), photo["sha256"]
        for verb, more in (
            ("accept", {"reason": WORDS}),
            ("assign", {"reason": WORDS, "level": "LEVEL_TOWNSHIP", "unit": UNIT, "unitTitle": "城管局"}),
        ):
            done = county.call("POST", f"/habitat/v1/{self.name}:{verb}", more, token=self.officer)
            assert done.status == 200, done.body
        until(mesh.caught_up)
        self.record = county.call("GET", f"/habitat/v1/{self.name}", token=self.me).body
        self.steps = self.told(county, "steps").body
        self.row = kept_of(county, self.name)
        assert self.row["owner"]
        assert self.row["alarm"]
        self.audit = self.trail(county)

    def told(self, at: Node, what: str) -> Answer:
        return at.call("GET", f"/habitat/v1/{self.name}/{what}", token=self.officer)

    def trail(self, at: Node) -> list[tuple[Any, ...]]:
        """What was done to it, by whom."""
        wanted = "time, actor, method, after_digest, digest"
        return at.rows(f"SELECT {wanted} FROM mesh_audit WHERE name = '{self.name}' AND result = 'OK'"
                       " ORDER BY digest")  # fmt: skip

    def repeated(self, at: Node) -> Answer | None:
        """What filing it once more is answered, when its owner has taken it up."""
        found = at.call("POST", self.path, self.body, token=self.me)
        return None if found.status == 503 else found

    def is_at(self, mesh: Mesh, owner: str) -> None:
        """What a resident and an official see of it after the move, by every gateway."""
        there = node(mesh, owner)
        for at in (mesh.province, mesh.wuning, mesh.xiushui):
            mine = at.call("GET", REPORTS, token=self.me)
            assert [r["name"] for r in mine.body["reports"]] == [self.name], (at.region, mine.body)
            assert mine.served_by == owner
            seen = at.call("GET", f"/habitat/v1/{self.name}", token=self.me)
            assert (seen.status, seen.served_by, seen.body) == (200, owner, self.record)
            assert self.told(at, "steps").body == self.steps
            again = until(functools.partial(self.repeated, at), 5)
            assert (again.status, again.body) == (200, self.answer.body), at.region
        assert WORDS in str(self.steps)
        path = f"/habitat/v1/{self.name}/photos/{self.digest}"
        assert download(there, path, self.me) == (200, self.content)
        assert kept_of(there, self.name) == self.row
        assert self.trail(there) == self.audit
        assert len(there.rows(f"SELECT 1 FROM reports WHERE owner = '{self.row['owner']}'")) == 1

    def has_left(self, mesh: Mesh, former: str, secrets: Sequence[str]) -> None:
        """Nothing is left there but what the new owner's events would have brought."""
        there = node(mesh, former)
        row = kept_of(there, self.name)
        assert (row["owner"], row["alarm"]) == ("", None)
        assert (row["version"], row["digest"]) == (self.row["version"], self.row["digest"])
        gone = {"mesh_step": "reason", "mesh_attached": "sha256", "mesh_request": "answer"}
        for table, column in gone.items():
            whose = f"region = '{WUNING}'" if table == "mesh_request" else f"name = '{self.name}'"
            sql = f"SELECT 1 FROM {table} WHERE {whose} AND {column} != ''"
            assert not there.rows(sql), table
        held = there.raw("habitat")
        for secret in (*secrets, WORDS, NAME, PHONE):
            assert secret.encode() not in held


def sealed(at: Node, name: str) -> list[str]:
    """What the node's database holds encrypted of a report: what opens it lies on the node too."""
    with contextlib.closing(sqlite3.connect(f"file:{at.data}/data/habitat.db?mode=ro", uri=True)) as database:
        found: list[str] = []
        for table in ("reports", "mesh_step"):
            for row in database.execute(f"SELECT * FROM {table} WHERE name = ?", (name,)):
                found += [v for v in row if isinstance(v, str) and v.startswith("k") and ":" in v[:6]]
    assert len(found) >= 3, found
    return found


def agree(mesh: Mesh) -> None:
    """The province's log of the region has no gap, and each event once, in its broker too."""
    until(lambda: all(number for _, _, number, _ in mesh.province.logged()))
    logged = mesh.province.logged()
    counts = Counter((epoch, incarnation) for epoch, incarnation, _, _ in logged)
    for place, count in counts.items():
        numbers = [n for e, i, n, _ in logged if (e, i) == place]
        assert numbers == list(range(1, count + 1)), place
    wanted = Counter(key for *_, key in logged)
    assert set(wanted.values()) == {1}
    for _ in range(50):
        if Counter(mesh.province.published()) == wanted:
            break
        time.sleep(0.1)
    assert Counter(mesh.province.published()) == wanted


class TestHandover:
    def test_moves_all_that_there_is_and_back(self, mesh: Mesh) -> None:
        before = Before(mesh)
        county, province = mesh.wuning, mesh.province
        secrets, epoch = sealed(county, before.name), mesh.wuning.logged()[-1][0]
        done = mesh.move(PROVINCE)
        assert (done["giver"], done["receiver"], done.get("trouble", "")) == (WUNING, PROVINCE, "")
        before.is_at(mesh, PROVINCE)
        before.has_left(mesh, WUNING, secrets)
        assert county.reports() == province.reports()
        # the former owner passes writes on
        late = filed(county, county.token("CZ"))
        assert late in province.reports()
        accepted = county.call("POST", f"/habitat/v1/{late}:accept", {}, token=before.officer)
        assert (accepted.status, accepted.served_by) == (200, PROVINCE)
        until(lambda: county.reports() == province.reports())
        until(lambda: [n for e, _, n, _ in province.logged() if e == epoch + 1] == [1, 2])
        agree(mesh)
        secrets = sealed(province, before.name)
        mesh.move(WUNING)
        before.is_at(mesh, WUNING)
        before.has_left(mesh, PROVINCE, secrets)
        assert writer(mesh) == WUNING
        name = filed(county, county.token("CZ"))
        until(lambda: name in province.reports())
        until(mesh.caught_up)
        until(lambda: [n for e, _, n, _ in province.logged() if e == epoch + 2] == [1])
        agree(mesh)
        until(lambda: county.logged() == province.logged())


class Writer:
    """Somebody who files one report after the other at a gateway, each once."""

    def __init__(self, at: Node, token: str) -> None:
        self.filed: list[str] = []
        self.refused: list[Answer] = []
        self._at, self._token = at, token
        self._done = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._done.is_set():
            found = self._at.call("POST", REPORTS, report(), token=self._token)
            if found.status == 200 and "x-village-delivery" not in found.headers:
                self.filed.append(found.body["name"])
            elif found.status != 200:
                self.refused.append(found)
                time.sleep(0.02)

    def stop(self) -> None:
        self._done.set()
        self.thread.join(30)


class Owners:
    """Looks all the while whether both databases have a row by which their node may write."""

    def __init__(self, mesh: Mesh) -> None:
        self.both: list[Any] = []
        self.seen = 0
        self._mesh, self._done = mesh, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asked = f"SELECT frozen, epoch FROM mesh_ownership WHERE region = '{WUNING}' AND domain = 'habitat'"
        with contextlib.ExitStack() as stack:
            databases = []
            for each in (self._mesh.wuning, self._mesh.province):
                path = f"file:{each.data}/data/habitat.db?mode=ro"
                opened = sqlite3.connect(path, uri=True, timeout=10, isolation_level=None)
                databases.append(stack.enter_context(contextlib.closing(opened)))
            while not self._done.is_set():
                rows = [database.execute(asked).fetchone() for database in databases]
                again = databases[0].execute(asked).fetchone()  # the first as it was before and after
                if again == rows[0] and all(row is not None and not row[0] for row in rows):
                    self.both.append(rows)
                self.seen += 1
                time.sleep(0.001)

    def stop(self) -> None:
        self._done.set()
        self.thread.join(30)


class TestFreeze:
    def test_loses_nothing_that_was_acknowledged_and_never_has_two_owners(self, mesh: Mesh) -> None:
        token = mesh.wuning.token("CZ")
        writers = [Writer(at, token) for at in (*[mesh.wuning] * 3, mesh.province)]
        owners = Owners(mesh)
        for thread in (owners.thread, *(w.thread for w in writers)):
            thread.start()
        try:
            time.sleep(1)
            for to in (PROVINCE, WUNING):
                mesh.move(to)
                time.sleep(1)
        finally:
            for w in writers:
                w.stop()
            owners.stop()
        acknowledged = [name for w in writers for name in w.filed]
        assert len(acknowledged) > 20
        assert set(acknowledged) <= mesh.wuning.reports().keys()
        assert {(w.status, w.body.get("code")) for each in writers for w in each.refused} <= {(503, 14)}
        assert any(w.refused for w in writers), "nobody wrote at the freeze"
        assert owners.seen > 500
        assert not owners.both
        until(mesh.caught_up)
        told = mesh.wuning.rows("SELECT name FROM mesh_outbox WHERE type LIKE '%ReportFiled'")
        assert not set(acknowledged) - {name for (name,) in told}
        agree(mesh)


class TestRefusals:
    def test_name_what_stands_in_the_way(self, mesh: Mesh) -> None:
        assert mesh.hand_over(XIUSHUI).reason == "NOT_THROUGH_PROVINCE"
        assert mesh.hand_over("360425", XIUSHUI).reason == "NODE_NOT_ENROLLED"
        assert mesh.hand_over(WUNING).reason == "INVALID"
        assert mesh.hand_over(PROVINCE, "360499").reason in ("NOT_OWNED_HERE", "INVALID")
        official = mesh.province.call(
            "POST", f"/mesh/v1/regions/{PROVINCE}/handovers",
            {"aboutRegion": WUNING, "domain": "habitat", "receiver": PROVINCE},
            token=mesh.province.token("PA"),
        )  # fmt: skip
        assert official.reason == "FORBIDDEN"
        assert writer(mesh) == WUNING

    def test_of_a_second_one_while_one_is_under_way_and_of_a_late_revert(self, mesh: Mesh) -> None:
        first = mesh.hand_over(PROVINCE).body["name"]
        second = mesh.hand_over(PROVINCE)
        assert second.reason == "HANDOVER_UNDER_WAY"
        assert first in second.body["message"]
        mesh.reaches(first, "GRANTED", "DONE")
        late = mesh.ask("POST", f"/mesh/v1/{first}:revert", {})
        assert late.reason == "HANDOVER_DECIDED"
        mesh.reaches(first)
        assert writer(mesh) == PROVINCE

    def test_of_the_slower_when_two_ask_at_once(self, mesh: Mesh) -> None:
        """Whatever both were answered, one moves it, and nobody is left writing beside the owner."""
        answers: list[Answer] = []

        def ask() -> None:
            answers.append(mesh.hand_over(PROVINCE))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = [a.body["name"] for a in answers if a.status == 200]
        assert taken
        ends = [mesh.reaches(name, "DONE", "REVERTED")["state"] for name in taken]
        assert ends.count("STATE_DONE") == 1
        asked = f"SELECT frozen FROM mesh_ownership WHERE region = '{WUNING}'"
        assert (mesh.wuning.rows(asked), mesh.province.rows(asked)) == ([(1,)], [(0,)])
