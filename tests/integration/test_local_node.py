"""A whole node on this machine: real broker, services and Envoy, started as a county would start them."""

import asyncio
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import jwt
import nats
import nats.errors
import nats.js.errors
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection

from deploy.local import node as local
from deploy.local import prepare
from services.habitat import service
from tests import collector as collectors
from tests.mesh import signed
from tests.waiting import free_ports, until

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORTS = "/habitat/v1/regions/360423/reports"
GOOD = {
    "category": "CATEGORY_WASTE",
    "description": "河边有垃圾",
    "division": "360423100201",
    "location": {"latitude": 29.26, "longitude": 115.09},
}


def mesh(*words: str, wait: float = 90) -> subprocess.CompletedProcess[str]:
    """Runs `villagemesh WORDS…` to its end."""
    return subprocess.run(  # noqa: PLW1510 - some are to fail
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | prepare.python_environment(),
        capture_output=True,
        text=True,
        timeout=wait,
    )


class County:
    """A node's directory and the commands on it."""

    def __init__(self, data: pathlib.Path) -> None:
        self.data = data
        self.port = free_ports(4)

    def words(self, *more: str) -> list[str]:
        stated = ("--region", "360423", "--services", "habitat", "--port", str(self.port))
        return ["up", "--data", str(self.data), *stated, *more]

    def up(self, *more: str) -> subprocess.CompletedProcess[str]:
        return mesh(*self.words("--detach", *more))

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "node.json").read_text()))

    def pids(self) -> dict[str, int]:
        return {child.name: child.pid for child in local.children(self.data)}

    def token(self, role: str, region: str = "360423", *more: str) -> str:
        if not more:
            return signed(self.data, role, region)
        words = ("--subject", f"{role}-1", "--role", role, "--region", region)
        made = mesh("token", "--data", str(self.data), *words, *more)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def ask(self, path: str, *, token: str = "", body: Any = None) -> tuple[int, dict[str, Any]]:
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        content = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def answers(self) -> bool:
        try:
            return self.ask("/mesh/v1/node")[0] == 200
        except OSError:
            return False


@pytest.fixture
def county(tmp_path: pathlib.Path) -> Iterator[County]:
    made = County(tmp_path / "county")
    yield made
    if made.data.exists():
        local.stop(made.data)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    """A node for tests that leave it as it was."""
    made = County(tmp_path_factory.mktemp("running") / "county")
    started = made.up()
    assert started.returncode == 0, started.stderr
    yield made
    assert mesh("down", "--data", str(made.data)).returncode == 0


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestTraces:
    def test_run_from_the_gateway_through_the_service_to_the_commit(
        self, county: County, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with collectors.listening() as collector:
            monkeypatch.setenv("VILLAGEMESH_OTLP", collector.address)
            monkeypatch.setenv("VILLAGEMESH_TRACE_RATIO", "1")
            assert county.up().returncode == 0
            assert county.ask(REPORTS, token=county.token("CZ"), body=GOOD)[0] == 200
            wanted = ("gateway", "FileReport", "commit", "publish")

            def chain() -> dict[str, Any]:
                traces = {s.trace_id for s in collector.spans if s.name == "FileReport"}
                return {s.name: s for s in collector.spans if s.trace_id in traces}

            until(lambda: set(wanted) <= chain().keys(), 60)
        found = chain()
        filed = found["FileReport"]
        assert found["gateway"].parent_span_id == b""
        assert filed.parent_span_id == found["gateway"].span_id
        assert {found["commit"].parent_span_id, found["publish"].parent_span_id} == {filed.span_id}


class TestUp:
    def test_returns_with_a_node_that_takes_a_report(self, running: County) -> None:
        status, filed = running.ask(REPORTS, token=running.token("CZ"), body=GOOD)
        assert (status, filed["state"]) == (200, "STATE_REPORTED")
        status, listed = running.ask(REPORTS, token=running.token("KA"))
        assert status == 200
        assert filed["name"] in [report["name"] for report in listed["reports"]]

    def test_writes_the_state_that_others_script(self, running: County) -> None:
        state = running.state()
        address = f"127.0.0.1:{running.port}"
        assert (state["region"], state["level"], state["console"]) == ("360423", "COUNTY", "")
        assert (state["http"], state["grpc"]) == (f"http://{address}", address)
        assert state["services"] == {"habitat": address}
        assert re.fullmatch(rf"nats://subscriber:[^@]+@127\.0\.0\.1:{running.port + 1}", state["nats"])
        assert state["pid"] == running.pids()["supervisor"]

    def test_says_so_when_it_runs_already(self, running: County) -> None:
        before = running.pids()
        again = running.up()
        assert again.returncode == 0
        assert "already running" in again.stdout
        assert f"http://127.0.0.1:{running.port}" in again.stdout
        assert running.pids() == before

    def test_keeps_secrets_from_others(self, running: County) -> None:
        for path in (running.data / "secrets").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for name in ("node.json", "run/programs.json"):
            assert stat.S_IMODE((running.data / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((running.data / "secrets").stat().st_mode) == 0o700

    def test_keeps_data_and_secrets_over_a_restart(self, county: County) -> None:
        assert county.up().returncode == 0
        token = county.token("CZ")
        _, filed = county.ask(REPORTS, token=token, body=GOOD)
        keys = (county.data / "secrets/key_ring.json").read_bytes()
        stopped = mesh("down", "--data", str(county.data))
        assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
        assert not (county.data / "node.json").exists()
        assert county.up().returncode == 0
        assert county.ask(f"/habitat/v1/{filed['name']}", token=token)[1]["description"] == "河边有垃圾"
        assert (county.data / "secrets/key_ring.json").read_bytes() == keys

    def test_works_in_a_directory_whose_name_is_long(self, tmp_path: pathlib.Path) -> None:
        county = County(tmp_path / ("long" * 30) / ("村" * 40))
        try:
            started = county.up()
            assert started.returncode == 0, started.stderr
            assert county.answers()
        finally:
            local.stop(county.data)

    def test_refuses_a_taken_port_by_name(self, county: County) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", county.port + 1))
            taken.listen()
            refused = county.up()
        assert refused.returncode == 1
        assert f"port {county.port + 1} (broker) is in use" in refused.stderr
        assert not (county.data / "node.json").exists()

    def test_refuses_the_directory_of_another_region(self, running: County) -> None:
        with pytest.raises(prepare.directory.BadNode, match="360423"):
            prepare.prepare(running.data, "360424")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--province", "https://p"), "--invite with a code is needed"),
            (("--province", "http://p", "--invite", "x"), "is not the address of a province's office"),
            (("--province", "https://127.0.0.1:1", "--invite", "x"), "does not answer"),
            (("--invite", "x"), "--invite goes with --province"),
            (("--services", "cooking"), "no domain cooking; there are: habitat"),
            (("--production",), "--production and --issuers go together"),
            (("--region", "36042"), "not a region"),
            (("--database", "postgresql://x/y"), "{domain}"),
        ],
    )
    def test_refuses_what_it_cannot_be(self, county: County, words: tuple[str, ...], said: str) -> None:
        refused = county.up(*words)
        assert refused.returncode != 0
        assert said in refused.stderr

    def test_says_why_it_does_not_come_up(self, county: County, monkeypatch: pytest.MonkeyPatch) -> None:
        prepare.prepare(county.data, "360423")
        (county.data / "secrets/key_ring.json").write_text("{}")
        monkeypatch.setattr(local, "_READY_SECONDS", 10.0)
        plan = prepare.Plan(region="360423", services=("habitat",), port=county.port)
        with pytest.raises(local.NotUp, match=r"(?s)not ready.*services\.log ends:.*key"):
            local.start(county.data, plan)
        assert not local.running(county.data)

    def test_in_the_foreground_stays_until_it_is_asked_to_stop(self, county: County) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *county.words()],
            env=os.environ | prepare.python_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            until((county.data / "node.json").exists)
            assert county.state()["pid"] == process.pid
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        assert process.returncode == 0
        assert "node of region 360423 (COUNTY), ready" in said
        stops = re.findall(r"(nats|services|envoy) ended", said)
        assert stops == ["envoy", "services", "nats"]


class TestMakeUp:
    def test_starts_a_province_and_two_counties_to_try(self, tmp_path: pathlib.Path) -> None:
        county = County(tmp_path / "360423")
        county.port = free_ports(24)
        words = ["bash", str(ROOT / "deploy/local/up.sh"), str(tmp_path), str(county.port), "60"]
        try:
            for _ in range(2):
                done = subprocess.run(words, capture_output=True, text=True, timeout=120)  # noqa: PLW1510
                assert done.returncode == 0, done.stdout + done.stderr
            self.shows(county, done.stdout)
        finally:
            for region in ("360423", "360424", "360000"):
                mesh("down", "--data", str(tmp_path / region))

    def shows(self, county: County, told: str) -> None:
        assert "villagemesh events --data" in told
        lines = (county.data / "tokens.env").read_text().splitlines()
        tokens = dict(line.split("=", 1) for line in lines if "=" in line)
        assert tokens["URL"] == f"http://127.0.0.1:{county.port}"
        for who in ("RESIDENT", "VILLAGE", "TOWN", "COUNTY"):
            assert county.ask(f"{REPORTS}?pageSize=5", token=tokens[who])[0] == 200
        assert len(county.ask(f"{REPORTS}?pageSize=5", token=tokens["COUNTY"])[1]["reports"]) == 5
        drawn = county.ask("/habitat/v1/regions/360423/map:draw", token=tokens["COUNTY"])[1]["features"]
        shown = {feature["properties"]["layer"] for feature in drawn}
        assert shown == {layer.name for area in service.AREAS for layer in getattr(area, "LAYERS", ())}
        assert (county.data / "tokens.env").stat().st_mode & 0o077 == 0
        urls = {"URL": "COUNTY", "PROVINCE_URL": "PROVINCE", "XIUSHUI_URL": "COUNTY"}
        for url, who in urls.items():  # any gateway will do
            request = urllib.request.Request(
                f"{tokens[url]}{REPORTS}?pageSize=5", headers={"authorization": f"Bearer {tokens[who]}"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert len(json.load(answer)["reports"]) == 5
                assert answer.headers["x-village-served-by"] in {"360423", "360000"}
        reconciled = mesh(
            *("reconcile", "--data", str(county.data.parent / "360000")),
            *("--region", "360423", "--domain", "habitat", "--check"),
        )
        assert (reconciled.returncode, reconciled.stdout.strip()) == (0, "the same"), reconciled.stdout


class TestEvents:
    def test_replays_what_was_filed(self, running: County) -> None:
        _, filed = running.ask(REPORTS, token=running.token("CZ"), body=GOOD)
        words = ("events", "--data", str(running.data), "--from", "1", "--json")
        with subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            env=os.environ | prepare.python_environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as reading:
            assert reading.stdout
            stop = threading.Timer(30, reading.kill)
            stop.start()
            found = next((e for e in map(json.loads, reading.stdout) if e["subject"] == filed["name"]), None)
            stop.cancel()
            reading.kill()
        assert found
        assert found["nats_subject"] == "village.36.04.23.habitat.report.filed"


class TestNode:
    def test_tells_its_services_by_reflection_and_their_health(self, running: County) -> None:
        with grpc.insecure_channel(running.state()["grpc"]) as channel:
            known = reflection.ProtoReflectionDescriptorDatabase(channel).get_services()
            health = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="village.habitat.v1.ReportService")
            answer = health.Check(asked, timeout=10)
        assert {"village.habitat.v1.ReportService", "village.mesh.v1.DirectoryService"} <= set(known)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_refuses_by_itself_what_the_gateway_lets_pass(self, running: County) -> None:
        status, refused = running.ask(REPORTS)
        assert (status, refused["code"]) == (401, 16)
        status, refused = running.ask(REPORTS, token=running.token("CZ", "360424"), body=GOOD)
        assert (status, refused["code"]) == (401, 16)  # its issuer may not vouch for that region


class TestSurvival:
    def test_comes_back_when_any_program_is_killed(self, county: County) -> None:
        assert county.up().returncode == 0
        for name in ("envoy", "services", "nats"):
            pid = county.pids()[name]
            os.kill(pid, signal.SIGKILL)
            until(lambda name=name, pid=pid: county.pids()[name] not in {0, pid})
            until(county.answers)
        token = county.token("CZ")
        until(lambda: county.ask(REPORTS, token=token, body=GOOD)[0] == 200)

    def test_leaves_nothing_behind_when_it_is_killed_and_starts_again(self, county: County) -> None:
        assert county.up().returncode == 0
        pids = county.pids()
        os.kill(pids["supervisor"], signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in pids.values()))
        started = county.up()
        assert started.returncode == 0, started.stderr
        assert "already" not in started.stdout
        assert county.answers()


class TestDown:
    def test_says_so_when_nothing_runs(self, tmp_path: pathlib.Path) -> None:
        done = mesh("down", "--data", str(tmp_path))
        assert (done.returncode, "no node runs" in done.stdout) == (0, True)


class TestStatus:
    def test_shows_node_services_and_processes(self, running: County) -> None:
        shown = json.loads(mesh("status", "--data", str(running.data), "--json").stdout)
        assert shown["node"]["level"] == "LEVEL_COUNTY"
        (habitat,) = shown["node"]["services"]
        assert (habitat["domain"], habitat["ready"]) == ("habitat", True)
        by_name = {child["name"]: child for child in shown["children"]}
        assert list(by_name) == ["supervisor", "nats", "services", "envoy"]
        assert all(child["rss_bytes"] > 2**20 for child in by_name.values())
        assert by_name["supervisor"]["rss_bytes"] <= 16 * 2**20

    def test_shows_the_processes_of_a_node_that_does_not_answer(self, running: County) -> None:
        pid = running.pids()["envoy"]
        os.kill(pid, signal.SIGSTOP)
        try:
            shown = mesh("status", "--data", str(running.data), "--json")
        finally:
            os.kill(pid, signal.SIGCONT)
        found = json.loads(shown.stdout)
        assert (shown.returncode, len(found["children"])) == (1, 4)
        assert "does not answer" in found["trouble"]

    def test_fails_when_nothing_runs(self, tmp_path: pathlib.Path) -> None:
        shown = mesh("status", "--data", str(tmp_path))
        assert shown.returncode == 1
        assert "no node runs" in shown.stderr


class TestToken:
    def test_says_who_may_do_what_for_how_long(self, running: County) -> None:
        more = ("--ttl", "30m", "--organisation", "12320582TE5T00059Y")
        signed = running.token("TO", "360423100", *more)
        (key,) = json.loads((running.data / "trust/jwks.json").read_text())["keys"]
        head = jwt.get_unverified_header(signed)
        assert (head["alg"], head["kid"]) == ("EdDSA", key["kid"])
        claims = jwt.decode(signed, jwt.PyJWK(key).key, algorithms=["EdDSA"], audience="village-mesh")
        assert claims["iss"] == "https://360423.village.invalid/development"
        assert (claims["sub"], claims["roles"], claims["region"]) == ("TO-1", ["TO"], "360423100")
        assert claims["organisation"] == "12320582TE5T00059Y"
        assert claims["exp"] - claims["iat"] == 1800
        assert claims["nbf"] == claims["iat"]
        assert claims["jti"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--role", "KING"), "no role KING"),
            (("--region", "12"), "neither a region"),
            (("--organisation", "12320582TE5T00059X"), "check character"),
            (("--ttl", "forever"), "not a span"),
        ],
    )
    def test_refuses_what_no_service_would_take(
        self, running: County, words: tuple[str, ...], said: str
    ) -> None:
        usual = ("--subject", "x", "--role", "KA", "--region", "360423")
        refused = mesh("token", "--data", str(running.data), *usual, *words)
        assert refused.returncode != 0
        assert said in refused.stderr
        assert refused.stdout == ""

    def test_is_refused_by_a_production_node(self, county: County, running: County) -> None:
        trusted = running.data / "trust/issuers.json"
        started = county.up("--production", "--issuers", str(trusted))
        assert started.returncode == 0, started.stderr
        assert not (county.data / "secrets/issuer.pem").exists()
        words = ("--subject", "x", "--role", "KA", "--region", "360423")
        refused = mesh("token", "--data", str(county.data), *words)
        assert refused.returncode == 1
        assert "production" in refused.stderr
        assert county.ask(REPORTS, token=running.token("KA"))[0] == 200


class TestDoctor:
    def test_finds_a_running_node_well(self, running: County) -> None:
        said = mesh("doctor", "--data", str(running.data))
        assert said.returncode == 0, said.stdout
        for what in ("clock", "disk", "secrets", "gateway listens", "envoy runs", "database", "events wait"):
            assert what in said.stdout
        assert {line.split()[0] for line in said.stdout.splitlines()} <= {"ok", "warn"}

    def test_names_what_is_bad_and_what_to_do(self, tmp_path: pathlib.Path) -> None:
        prepare.prepare(tmp_path, "360423")
        (tmp_path / "secrets/key_ring.json").chmod(0o644)
        said = mesh("doctor", "--data", str(tmp_path))
        assert said.returncode == 1
        assert re.search(r"bad .*key_ring\.json can be read by others -> chmod 600 ", said.stdout)
        assert re.search(r"bad .*no node runs .*-> start it", said.stdout)


class TestConform:
    def test_finds_nothing_through_the_gateway(self, running: County) -> None:
        rules = [
            word for rule in ("reflection", "page-token", "page-size", "masked") for word in ("--only", rule)
        ]
        said = mesh("conform", running.state()["grpc"], "--data", str(running.data), *rules)
        assert said.returncode == 0, said.stdout + said.stderr
        passed = re.search(r"^(\d+) passed, 0 failed", said.stdout, re.MULTILINE)
        assert passed is not None
        assert int(passed[1]) > 100


class TestBroker:
    def test_lets_a_subscriber_read_and_nothing_else(self, running: County) -> None:
        asyncio.run(_try_everything(running))


async def _try_everything(county: County) -> None:
    denied: list[str] = []

    async def note(error: Exception) -> None:
        denied.append(str(error))

    subject = "village.36.04.23.habitat.test.tried"
    service = await nats.connect(prepare.broker_url(county.data, "service", county.port + 1))
    stream = service.jetstream()
    try:
        await stream.stream_info("EV_habitat")
    except nats.js.errors.NotFoundError:
        await stream.add_stream(name="EV_habitat", subjects=["village.*.*.*.habitat.>"])
    await stream.publish(subject, b"fact")

    reader = await nats.connect(county.state()["nats"], error_cb=note)
    reading = reader.jetstream(timeout=0.4)
    pull = await reading.pull_subscribe(subject, stream="EV_habitat")
    (message,) = await pull.fetch(1, timeout=5)
    await message.ack()
    assert message.data == b"fact"
    assert (await reading.stream_info("EV_habitat")).state.messages >= 1

    before = (await stream.stream_info("EV_habitat")).state.messages
    await reader.publish(subject, b"forged")
    with pytest.raises(nats.errors.TimeoutError):
        await reading.purge_stream("EV_habitat")
    with pytest.raises(nats.errors.TimeoutError):
        await reading.delete_stream("EV_habitat")
    with pytest.raises(nats.errors.TimeoutError):
        await reading.delete_msg("EV_habitat", 1)
    with pytest.raises(nats.errors.TimeoutError):
        await reading.add_stream(name="MINE", subjects=["mine.>"])
    assert (await stream.stream_info("EV_habitat")).state.messages == before
    assert len(denied) == 5, denied
    await reader.close()
    await service.close()
