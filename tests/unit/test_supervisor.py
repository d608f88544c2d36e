"""The supervisor with stand-in programs: small Python ones that write down what happens to them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from deploy.local import node, prepare, supervisor
from tests.waiting import until

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAND_IN = """
import signal, sys, time
def note(text):
    with open("events", "a") as file:
        file.write(f"{sys.argv[1]} {text}\\n")
def stop(*_):
    note("asked")
    time.sleep(float(sys.argv[2]))
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("started")
while True:
    time.sleep(60)
"""
FAILS = "import sys; print('no luck'); sys.exit(3)"


class Node:
    """A directory with a supervisor that runs stand-ins."""

    def __init__(self, data: pathlib.Path) -> None:
        self.data = data
        for name in ("run", "logs"):
            (data / name).mkdir()
        self.process: subprocess.Popen[str] | None = None

    def start(self, patience: float = 10, **programs: list[str]) -> subprocess.Popen[str]:
        listed = [
            {"name": name, "command": command, "environment": {}, "log": f"logs/{name}.log"}
            for name, command in programs.items()
        ]
        (self.data / supervisor.PROGRAMS).write_text(json.dumps({"patience": patience, "programs": listed}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local.supervisor", str(self.data)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def children(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(json.loads((self.data / supervisor.CHILDREN).read_text()))
        except FileNotFoundError:
            return {}

    def events(self) -> list[str]:
        try:
            return (self.data / "events").read_text().splitlines()
        except FileNotFoundError:
            return []

    def started(self, *names: str) -> bool:
        return all(f"{name} started" in self.events() for name in names)


def stand_in(name: str, slowness: float = 0) -> list[str]:
    return [sys.executable, "-c", STAND_IN, name, str(slowness)]


@pytest.fixture
def village(tmp_path: pathlib.Path) -> Iterator[Node]:
    started = Node(tmp_path)
    yield started
    if started.process:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestRestart:
    def test_starts_a_killed_program_again(self, village: Node) -> None:
        village.start(broker=stand_in("broker"), services=stand_in("services"))
        until(lambda: village.started("broker", "services"))
        before = village.children()
        os.kill(before["broker"]["pid"], signal.SIGKILL)
        after = until(lambda: (now := village.children())["broker"]["restarts"] == 1 and now)
        assert after["broker"]["pid"] not in {0, before["broker"]["pid"]}
        assert after["services"] == before["services"] | {"started": after["services"]["started"]}
        until(lambda: village.events().count("broker started") == 2)

    def test_waits_longer_each_time(self, village: Node) -> None:
        process = village.start(broker=[sys.executable, "-c", FAILS])
        until(lambda: village.children().get("broker", {}).get("restarts") == 3)
        process.terminate()
        said, _ = process.communicate(timeout=10)
        waits = [line.split("again in ")[1].split()[0] for line in said.splitlines() if "again in" in line]
        assert waits[:3] == ["0.2", "0.4", "0.8"]
        assert (village.data / "logs/broker.log").read_text().startswith("no luck")

    def test_survives_a_program_that_does_not_exist(self, village: Node) -> None:
        village.start(broker=["/nowhere/nats-server"], services=stand_in("services"))
        until(lambda: village.started("services") and village.children()["broker"]["restarts"] >= 1)
        assert village.children()["broker"]["pid"] == 0

    def test_grows_the_wait_to_a_limit_and_resets_it_after_a_steady_run(self) -> None:
        child = supervisor.Child("broker", [], {}, "log")
        waits = []
        for _ in range(7):
            waits.append(child.delay)
            supervisor._wait_longer(child)
        assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        child.process, child.started = ended, time.monotonic() - 31
        supervisor._tend(child)
        assert child.delay == 0.4  # the wait that began was the first one again


class TestStop:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_stops_the_last_first_and_waits_for_each(self, village: Node, how: signal.Signals) -> None:
        names = ("broker", "services", "gateway")
        process = village.start(**{name: stand_in(name, 0.1) for name in names})
        until(lambda: village.started(*names))
        (village.data / supervisor.STATE).write_text("{}")
        process.send_signal(how)
        assert process.wait(10) == 0
        assert [event for event in village.events() if "started" not in event] == [
            *("gateway asked", "gateway stopped"),
            *("services asked", "services stopped"),
            *("broker asked", "broker stopped"),
        ]
        for name in (supervisor.CHILDREN, supervisor.STATE, supervisor.PID):
            assert not (village.data / name).exists()

    def test_fails_when_the_node_was_never_ready(self, village: Node) -> None:
        process = village.start(broker=stand_in("broker"))
        until(lambda: village.started("broker"))
        process.terminate()
        assert process.wait(10) == 1

    def test_kills_what_does_not_stop_in_time(self, village: Node) -> None:
        process = village.start(patience=0.3, broker=stand_in("broker"), gateway=stand_in("gateway", 600))
        until(lambda: village.started("broker", "gateway"))
        pid = village.children()["gateway"]["pid"]
        process.terminate()
        said, _ = process.communicate(timeout=10)
        assert "gateway did not stop within 0.3 s: killed" in said
        assert gone(pid)
        assert village.events()[-1] == "broker stopped"

    def test_leaves_no_orphan_when_it_is_killed(self, village: Node) -> None:
        process = village.start(broker=stand_in("broker"), services=stand_in("services"))
        until(lambda: village.started("broker", "services"))
        pids = [child["pid"] for child in village.children().values()]
        process.kill()
        process.wait()
        until(lambda: all(gone(pid) for pid in pids))
        assert not any("asked" in event for event in village.events())

    def test_does_not_pass_ctrl_c_of_the_terminal_to_its_programs(self, village: Node) -> None:
        process = village.start(broker=stand_in("broker"))
        until(lambda: village.started("broker"))
        assert os.getpgid(village.children()["broker"]["pid"]) != os.getpgid(process.pid)


class TestLock:
    def test_lets_one_supervisor_run(self, village: Node) -> None:
        village.start(broker=stand_in("broker"))
        until(lambda: village.started("broker"))
        assert supervisor.locked(village.data)
        second = subprocess.run(  # noqa: PLW1510 - it is to fail
            [sys.executable, "-m", "deploy.local.supervisor", str(village.data)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert second.returncode != 0
        assert "already runs" in second.stderr
        assert village.events() == ["broker started"]

    def test_is_free_after_a_kill(self, village: Node) -> None:
        process = village.start(broker=stand_in("broker"))
        until(lambda: village.started("broker"))
        process.kill()
        process.wait()
        assert not supervisor.locked(village.data)


class TestSize:
    def test_stays_small(self, village: Node) -> None:
        process = village.start(broker=stand_in("broker"))
        until(lambda: village.started("broker"))
        assert psutil.Process(process.pid).memory_info().rss <= 16 * 2**20


class TestPorts:
    @pytest.mark.parametrize(("offset", "name"), [(0, "gateway"), (1, "broker")])
    def test_refuses_a_taken_one_by_name(self, offset: int, name: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            plan = prepare.Plan(region="360423", services=("habitat",), port=port - offset)
            with pytest.raises(node.NotUp, match=rf"port {port} \({name}\) is in use"):
                node.check_ports(plan)
