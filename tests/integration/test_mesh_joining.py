"""Who may join a mesh, and what a node may do in it, with a code, a certificate, a line and a token of its
own; and what a hostile one may not."""

import asyncio
import contextlib
import datetime
import json
import pathlib
import shutil
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from deploy.local import directory, issuer, joining, prepare
from gateway import authority
from mesh import bus, events, resources, trust
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Mesh, Node
from tests.waiting import until
from village.mesh.v1 import link_pb2

PENGZE = "360430"
REPORTS = f"/habitat/v1/regions/{WUNING}/reports"
PULL = "/village.habitat.v1.LogService/PullLog"
NOT_VALID = "the code is wrong, used, expired, or another region's"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Wuning owns habitat; Xiushui runs it without a grant."""
    with Mesh(tmp_path_factory.mktemp("mesh"), {WUNING: ("habitat",)}) as started:
        started.join(XIUSHUI, ("habitat",), started.invite(XIUSHUI))
        resident = started.xiushui.token("CZ")
        until(lambda: started.province.file(XIUSHUI, token=resident).status == 200)
        yield started


@pytest.fixture
def newcomer(mesh: Mesh, tmp_path: pathlib.Path) -> Iterator[Node]:
    """The node of Pengze, which is not started yet."""
    made = Mesh.county(mesh, PENGZE, ("habitat",))
    made.data = tmp_path / PENGZE
    yield made
    if made.data.exists():
        made.stop()
    assert made.line is not None
    made.line.__exit__()
    del mesh.counties[PENGZE]


def refused(mesh: Mesh, node: Node, code: str) -> str:
    """What the node is told when it may not join; nothing is kept and nothing runs then."""
    with pytest.raises(joining.NotJoined) as told:
        node.start(province=mesh.address(node), code=code)
    assert not directory.joined(node.data)
    assert sorted(p.name for p in (node.data / "trust").iterdir() if p.suffix in (".pem", ".binpb")) == [
        "audit_key.pem"
    ]
    return str(told.value)


class TestInvitation:
    def test_admits_nobody_with_a_wrong_code(self, mesh: Mesh, newcomer: Node) -> None:
        fingerprint = mesh.invite(PENGZE).partition(".")[2]
        assert NOT_VALID in refused(mesh, newcomer, f"{'0' * 32}.{fingerprint}")

    def test_admits_one_node(self, mesh: Mesh, newcomer: Node) -> None:
        code = mesh.invite(PENGZE)
        joining_to = {"province": mesh.address(newcomer), "code": code}
        newcomer.start(**joining_to)
        newcomer.stop()
        thief = Node(newcomer.data.with_name("thief"), PENGZE, (), newcomer.port)
        thief.line = newcomer.line
        assert NOT_VALID in refused(mesh, thief, code)

    def test_admits_nobody_after_a_week(self, mesh: Mesh, newcomer: Node) -> None:
        code = mesh.invite(PENGZE)
        with contextlib.closing(sqlite3.connect(mesh.province.data / "data/mesh.db", timeout=10)) as database:
            past = resources.rfc3339(resources.utcnow() - datetime.timedelta(seconds=1))
            aged = "UPDATE invitations SET expire_time = ? WHERE about_region = ? AND use_time IS NULL"
            database.execute(aged, (past, PENGZE))
            database.commit()
        assert NOT_VALID in refused(mesh, newcomer, code)

    def test_admits_no_node_of_another_region(self, mesh: Mesh, newcomer: Node) -> None:
        assert NOT_VALID in refused(mesh, newcomer, mesh.invite("360425"))

    def test_is_not_shown_to_another_province(self, mesh: Mesh, newcomer: Node) -> None:
        secret = mesh.invite(PENGZE).partition(".")[0]
        told = refused(mesh, newcomer, f"{secret}.{'a' * 32}")
        assert "is not the province that the code is of" in told
        fingerprint = mesh.invite(PENGZE).partition(".")[2]
        assert NOT_VALID not in told
        newcomer.start(province=mesh.address(newcomer), code=f"{secret}.{fingerprint}")  # it is still good

    def test_is_for_places_inside_the_province(self, mesh: Mesh) -> None:
        path = f"/mesh/v1/regions/{PROVINCE}/invitations"
        for region in ("350100", PROVINCE):
            assert mesh.ask("POST", path, {"aboutRegion": region}).status == 400
        token = mesh.wuning.token("ADM")
        asked = mesh.province.call("POST", path, {"aboutRegion": PENGZE}, token=token)
        assert (asked.status, asked.reason) == (403, "FORBIDDEN")


class TestJoining:
    def test_again_changes_nothing(self, mesh: Mesh, newcomer: Node) -> None:
        code = mesh.invite(PENGZE, ["habitat"])
        newcomer.start(province=mesh.address(newcomer), code=code)
        until(lambda: mesh.well(PENGZE), 20)
        path = f"/mesh/v1/regions/{PROVINCE}/enrolments"
        before, line = mesh.ask("GET", path).body, (newcomer.data / directory.LINE).read_bytes()
        assert newcomer.file(PENGZE, token=newcomer.token("CZ")).status == 200
        newcomer.stop()
        newcomer.start(province=mesh.address(newcomer), code=code)
        until(lambda: newcomer.reports(PENGZE).items() <= mesh.province.reports(PENGZE).items())
        assert mesh.ask("GET", path).body == before
        assert (newcomer.data / directory.LINE).read_bytes() == line

    def test_after_the_disk_was_lost_begins_a_log_that_is_not_mixed_up(
        self, mesh: Mesh, newcomer: Node
    ) -> None:
        newcomer.start(province=mesh.address(newcomer), code=mesh.invite(PENGZE, ["habitat"]))
        for _ in range(3):
            assert newcomer.file(PENGZE, token=newcomer.token("CZ")).served_by == PENGZE
        before = newcomer.reports(PENGZE)
        until(lambda: before.items() <= mesh.province.reports(PENGZE).items())
        newcomer.stop()
        shutil.rmtree(newcomer.data)
        newcomer.start(province=mesh.address(newcomer), code=mesh.invite(PENGZE, ["habitat"]))
        filed = newcomer.file(PENGZE, token=newcomer.token("CZ"))
        assert (filed.status, filed.served_by) == (200, PENGZE)
        until(lambda: filed.body["name"] in mesh.province.reports(PENGZE), 20)
        assert before.keys() < mesh.province.reports(PENGZE).keys()  # nowhere else are these left

    def test_gives_no_right_to_write_without_a_grant(self, mesh: Mesh) -> None:
        before = set(mesh.province.reports(XIUSHUI))
        made = mesh.xiushui.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
        assert (made.status, made.served_by) == (200, PROVINCE)
        assert set(mesh.province.reports(XIUSHUI)) - before == {made.body["name"]}
        until(lambda: made.body["name"] in mesh.xiushui.reports(XIUSHUI))  # the county's own come back to it
        assert mesh.xiushui.line is not None
        mesh.xiushui.line.cut()
        try:
            away = mesh.xiushui.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
            assert (away.status, away.reason) == (503, "NOT_DELIVERED")
            assert mesh.xiushui.reports(XIUSHUI) == mesh.province.reports(XIUSHUI)
        finally:
            mesh.xiushui.line.restore()

    def test_does_not_take_over_what_the_province_has_records_of(self, mesh: Mesh) -> None:
        path = f"/mesh/v1/regions/{PROVINCE}/grants"
        grant = {"aboutRegion": XIUSHUI, "domain": "habitat", "node": XIUSHUI}
        assert mesh.ask("POST", path, grant).reason == "DOMAIN_IN_USE"
        made = mesh.province.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
        assert (made.status, made.served_by) == (200, PROVINCE)


def lines(mesh: Mesh) -> set[str]:
    """The nodes whose lines end at the province's broker now."""

    async def ask() -> set[str]:
        client = await bus.connect(prepare.broker_url(mesh.province.data, "system", mesh.province.port + 1))
        try:
            answer = await client.request("$SYS.REQ.SERVER.PING.LEAFZ", b"", timeout=5)
            found = json.loads(answer.data)["data"].get("leafs") or []
            return {line["name"].removeprefix("node-") for line in found}
        finally:
            await client.close()

    return asyncio.run(ask())


class TestRevoked:
    def test_is_shut_out_within_seconds(self, mesh: Mesh, newcomer: Node) -> None:
        newcomer.start(province=mesh.address(newcomer), code=mesh.invite(PENGZE, ["habitat"]))
        until(lambda: mesh.well(PENGZE), 20)
        theirs, token = newcomer.token("KA"), mesh.province.token("PA")
        name = newcomer.file(PENGZE, token=newcomer.token("CZ")).body["name"]
        until(lambda: name in mesh.province.reports(PENGZE), 10)
        assert newcomer.call("GET", REPORTS, token=token).status == 200
        assert PENGZE in lines(mesh)
        revoked = mesh.ask("POST", f"/mesh/v1/regions/{PROVINCE}/enrolments/{PENGZE}:revoke", {})
        assert revoked.status == 200, revoked.body
        until(lambda: newcomer.call("GET", REPORTS, token=token).status in (401, 403, 503), 5)
        until(lambda: not mesh.well(PENGZE), 5)
        until(lambda: mesh.province.call("GET", f"/habitat/v1/{name}", token=theirs).status == 401, 5)
        until(lambda: PENGZE not in lines(mesh), 5)
        until(mesh.well, 10)  # the others' lines are taken anew
        late = newcomer.file(PENGZE, token=newcomer.token("CZ"))
        assert late.status == 200  # its people are served
        with pytest.raises(grpc.RpcError) as told:
            pull(mesh, newcomer, PENGZE)
        assert told.value.code() == grpc.StatusCode.UNAUTHENTICATED
        filed_after = mesh.wuning.file(token=mesh.wuning.token("CZ")).body["name"]
        until(lambda: filed_after in mesh.province.reports())
        assert late.body["name"] not in mesh.province.reports(PENGZE)
        copy = mesh.province.call("GET", f"/habitat/v1/{name}", token=token)
        assert (copy.status, copy.served_by) == (200, PROVINCE)


def office(
    mesh: Mesh, method: str, path: str, body: Any = None, context: ssl.SSLContext | None = None
) -> int:
    """The status of a call to the office; by default of somebody without a certificate."""
    if context is None:
        context = ssl.create_default_context(cafile=str(mesh.province.data / "trust/authority.pem"))
    text = json.dumps(body or {}).encode()
    with (
        socket.create_connection(("127.0.0.1", mesh.office), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=authority.server_name(PROVINCE)) as line,
    ):
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n"
        )
        line.sendall(head.encode() + f"content-length: {len(text)}\r\n\r\n".encode() + text)
        return int(line.recv(64).split()[1])


class TestStranger:
    def test_reaches_the_authority_and_enrolment_only(self, mesh: Mesh) -> None:
        assert office(mesh, "GET", "/mesh/v1/authority") == 200
        body = {"region": PENGZE, "code": "0" * 32, "signingRequest": "x"}
        assert office(mesh, "POST", f"/mesh/v1/regions/{PROVINCE}/enrolments", body) in (400, 403)
        for method, path in (
            ("GET", "/mesh/v1/node"),
            ("GET", f"/mesh/v1/regions/{PROVINCE}/grants"),
            ("POST", f"/mesh/v1/regions/{PROVINCE}/bundles"),
            ("GET", REPORTS),
            ("GET", f"/habitat/v1/regions/{WUNING}/log"),
            ("GET", "/leafnode"),
            ("POST", PULL),
            ("POST", "/village.mesh.v1.EnrolmentService/ListGrants"),
            ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
            (
                "POST",
                "/village.mesh.v1.DirectoryService/GetAuthority/../../village.habitat.v1.LogService/PullLog",
            ),
        ):
            assert office(mesh, method, path) in (400, 401, 403), path

    def test_with_a_certificate_of_his_own_making_is_not_let_in(
        self, mesh: Mesh, tmp_path: pathlib.Path
    ) -> None:
        key, now = authority.new_key(), resources.utcnow()
        (tmp_path / "key.pem").write_bytes(key)
        (tmp_path / "authority.pem").write_bytes(authority.self_signed(key, PROVINCE, now))
        forger = authority.Authority(tmp_path / "key.pem", tmp_path / "authority.pem")
        (tmp_path / "node.pem").write_text(forger.certify(authority.public_key(key), WUNING, now))
        context = ssl.create_default_context(cafile=str(mesh.province.data / "trust/authority.pem"))
        context.load_cert_chain(tmp_path / "node.pem", tmp_path / "key.pem")
        with pytest.raises((OSError, IndexError)):  # hung up on, with or without a word
            office(mesh, "GET", "/mesh/v1/authority", context=context)

    def test_cannot_say_at_the_public_gateway_that_he_is_a_node(self, mesh: Mesh) -> None:
        proof = {"x-village-node": proven(mesh.wuning)}
        request = link_pb2.PullLogRequest(parent=f"regions/{WUNING}")
        for headers in ({}, proof):
            found = mesh.province.rpc(PULL, request, link_pb2.PullLogResponse, headers=headers)
            assert found.status == "UNAUTHENTICATED"


def proven(node: Node, region: str = "", to: str = PROVINCE) -> str:
    """A token by which a node says that it is one, or that it is another."""
    known = trust.Directory(node.data / "trust", node.data / directory.NODE_KEY, region or node.region)
    return known.token(to, resources.utcnow())


def pull(mesh: Mesh, node: Node, region: str, proof: str = "") -> link_pb2.PullLogResponse:
    """Asks the province for a log over a node's own line."""
    with grpc.insecure_channel(f"127.0.0.1:{node.port + prepare.LINE}") as channel:
        ask = channel.unary_unary(
            PULL, link_pb2.PullLogRequest.SerializeToString, link_pb2.PullLogResponse.FromString
        )
        sent = [("x-village-node", proof or proven(node))]
        return ask(link_pb2.PullLogRequest(parent=f"regions/{region}"), metadata=sent, timeout=10)  # type: ignore[no-any-return]


class TestHostileCounty:
    def test_cannot_vouch_for_officials_of_elsewhere(self, mesh: Mesh) -> None:
        for role, region in (("PA", PROVINCE), ("ADM", PROVINCE), ("KA", XIUSHUI), ("CZ", XIUSHUI)):
            minted = issuer.sign(
                mesh.wuning.data, subject="x", roles=[role], region=region, organisation="",
                lasting=datetime.timedelta(hours=1),
            )  # fmt: skip
            for at in (mesh.province, mesh.xiushui):
                for asked in (
                    REPORTS,
                    f"/habitat/v1/regions/{XIUSHUI}/reports",
                    "/mesh/v1/regions/360000/grants",
                ):
                    assert at.call("GET", asked, token=minted).status == 401, (role, region, at.region)

    def test_cannot_take_the_name_of_others_issuer(self, mesh: Mesh, newcomer: Node) -> None:
        """Else their tokens would be held against its keys, and refused everywhere."""
        prepare.prepare(newcomer.data, PENGZE)
        listed = newcomer.data / "trust/issuers.json"
        (entry,) = json.loads(listed.read_text())["issuers"]
        for taken in (PROVINCE, WUNING):
            entry["issuer"] = f"https://{taken}.village.invalid/development"
            listed.write_text(json.dumps({"issuers": [entry]}))
            with pytest.raises(joining.NotJoined, match="another node"):
                joining.join(newcomer.data, PENGZE, mesh.address(newcomer), mesh.invite(PENGZE), listed)

    def test_reads_no_log_but_its_own(self, mesh: Mesh) -> None:
        mesh.xiushui.file(XIUSHUI, token=mesh.xiushui.token("CZ"))
        until(lambda: pull(mesh, mesh.xiushui, XIUSHUI).high_water)
        with pytest.raises(grpc.RpcError) as told:
            pull(mesh, mesh.xiushui, WUNING)
        assert told.value.code() == grpc.StatusCode.PERMISSION_DENIED
        for proof in (proven(mesh.xiushui, WUNING), proven(mesh.xiushui, to=WUNING), "x.y.z"):
            with pytest.raises(grpc.RpcError) as told:
                pull(mesh, mesh.xiushui, WUNING, proof)
            assert told.value.code() == grpc.StatusCode.UNAUTHENTICATED

    def test_hears_nothing_of_others_and_says_nothing_in_their_name(self, mesh: Mesh) -> None:
        """It has its own broker and may change its rules: what keeps it out is the province's."""
        before = mesh.province.published(WUNING)
        heard = asyncio.run(self._listen(mesh))
        assert heard == {}
        until(lambda: mesh.province.published(WUNING)[: len(before)] == before)
        sources = {events.stream("habitat"): asyncio.run(self._sources(mesh.province))}
        assert "forged" not in sources[events.stream("habitat")]

    @staticmethod
    async def _listen(mesh: Mesh) -> dict[str, int]:
        url = prepare.broker_url(mesh.xiushui.data, "service", mesh.xiushui.port + 1)
        client, heard = await bus.connect(url), dict[str, int]()

        async def hear(message: Any) -> None:
            own = message.data == b"x" or (message.headers or {}).get("Status")
            if not own and not message.subject.startswith(("village.36.04.24.", "village.36.00.00.")):
                heard[message.subject] = heard.get(message.subject, 0) + 1

        for subject in ("village.*.36.04.23.>", "village.36.04.23.>", "village.answer.>", "village.mark.>"):
            await client.subscribe(subject, cb=hear)
        await client.flush()
        for region in (PROVINCE, WUNING):
            tokens = f"{region[:2]}.{region[2:4]}.{region[4:]}"
            forged = {"Nats-Msg-Id": "forged", "ce-id": "forged", "ce-source": "forged"}
            await client.publish(f"village.{tokens}.habitat.report.filed", b"x", headers=forged)
            await client.publish(f"village.call.{tokens}.habitat", b"x", reply="village.answer.36.04.24.x")
        await client.publish("village.directory", b"")
        api = f"$JS.node-{PROVINCE}.API.STREAM.PURGE.{events.stream('habitat')}"
        with pytest.raises(Exception, match=r"no responders|timeout"):
            await client.request(api, b"", timeout=1)
        token = mesh.province.token("PA")

        def ask() -> None:
            assert mesh.well()
            assert mesh.province.file(token=mesh.wuning.token("CZ")).status == 200
            assert mesh.province.call("GET", REPORTS, token=token).status == 200

        for _ in range(5):
            await asyncio.to_thread(ask)
        await asyncio.to_thread(until, mesh.caught_up)
        await client.close()
        return heard

    @staticmethod
    async def _sources(node: Node) -> set[str]:
        client = await bus.connect(prepare.broker_url(node.data, "service", node.port + 1))
        js: Any = client.jetstream(timeout=10)
        try:
            name = events.stream("habitat")
            state = (await js.stream_info(name)).state
            heads = [(await js.get_msg(name, n)).headers for n in range(state.first_seq, state.last_seq + 1)]
            return {str((h or {}).get("ce-source")) for h in heads}
        finally:
            await client.close()
