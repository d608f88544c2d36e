"""Starts, watches and stops the node of a directory. Separate from the supervisor, which has to stay small,
and from the command line, which only prints."""

import contextlib
import dataclasses
import http.client
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

from deploy.local import directory, joining, prepare, supervisor

_READY_SECONDS = 60.0
_HOPELESS = 4
_STOP_SECONDS = 3 * prepare.PATIENCE_SECONDS + 15.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 12


class NotUp(Exception):  # noqa: N818 - an answer, not a fault
    """The node is not up, or does not come up; the text says why."""


@dataclasses.dataclass(frozen=True)
class Child:
    """A running program of the node."""

    name: str
    pid: int
    """0 while it waits to be started again."""
    rss_bytes: int
    uptime_seconds: float
    restarts: int


def running(data: pathlib.Path) -> int:
    """Process id of the directory's supervisor, or 0."""
    if supervisor.locked(data):
        with contextlib.suppress(OSError, ValueError):
            return int((data / supervisor.PID).read_text())
    return 0


def check_ports(plan: prepare.Plan) -> None:
    """NotUp, with the port's name, when one is taken."""
    wanted = {"gateway": 0, "broker": 1}
    if directory.level_of(plan.region) == "PROVINCE":
        wanted |= {"office": prepare.OFFICE, "lines of nodes": prepare.LEAVES}
    elif plan.joining is not None:
        wanted["line to the province"] = prepare.LINE
    for name, more in wanted.items():
        port = plan.port + more
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((plan.address if name == "gateway" else "127.0.0.1", port))
            except OSError as error:
                raise NotUp(f"port {port} ({name}) is in use: {error.strerror}") from None


@contextlib.contextmanager
def prepared(data: pathlib.Path, plan: prepare.Plan) -> Iterator[int]:
    """Holds the node's lock and prepares its directory; gives the lock's descriptor, for the supervisor to
    inherit. NotUp, BadNode or AlreadyRunning when it cannot be."""
    data.mkdir(parents=True, exist_ok=True)
    held = supervisor.lock(data)
    try:
        check_ports(plan)
        prepare.prepare(data, plan.region, production=plan.issuers is not None)
        if plan.joining is not None:
            issuers = prepare.issuers_file(data, plan)
            joining.join(data, plan.region, *plan.joining, issuers=issuers)
        prepare.configure(data, plan)
        for name in (
            supervisor.STATE,
            supervisor.PID,
            supervisor.CHILDREN,
            "run/services.sock",
            "run/envoy.sock",
        ):
            (data / name).unlink(missing_ok=True)
        yield held
    finally:
        os.close(held)


def command(data: pathlib.Path, held: int) -> list[str]:
    """How to start the supervisor with the lock it inherits."""
    return [sys.executable, "-m", "deploy.local.supervisor", str(data), str(held)]


def start(data: pathlib.Path, plan: prepare.Plan) -> dict[str, Any]:
    """Starts the node in the background; returns its state when it is ready, else stops it: NotUp."""
    with prepared(data, plan) as held, (data / "logs/supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command(data, held),
            env=os.environ | prepare.python_environment(),  # passed on, not read
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(held,),
            start_new_session=True,
        )
    try:
        return announce(data, plan, process.pid)
    except BaseException:
        process.terminate()
        process.wait(_STOP_SECONDS)
        raise


def announce(data: pathlib.Path, plan: prepare.Plan, pid: int) -> dict[str, Any]:
    """Waits until the node is ready and writes and returns its state. NotUp with the reason when it does not
    get there."""
    end = time.monotonic() + _READY_SECONDS
    while trouble := _trouble(plan):
        if not _alive(pid):
            raise NotUp(f"the supervisor ended:\n{tail(data / 'logs/supervisor.log')}")
        if any(child.restarts >= _HOPELESS for child in children(data)):
            raise NotUp(_why(data, trouble))
        if time.monotonic() > end:
            raise NotUp(_why(data, trouble))
        time.sleep(_POLL_SECONDS)
    address = f"{_reachable(plan.address)}:{plan.port}"
    state = {
        "region": plan.region,
        "level": directory.level_of(plan.region),
        "http": f"http://{address}",
        "grpc": address,
        "nats": prepare.broker_url(data, "subscriber", plan.port + 1),
        "console": "",
        "services": dict.fromkeys(plan.services, address),
        "pid": pid,
    }
    directory.replace(data / supervisor.STATE, json.dumps(state, indent=1))
    return state


def wait(data: pathlib.Path) -> dict[str, Any]:
    """The state of a node that somebody else has started, when it is ready; NotUp when it does not get
    there."""
    end = time.monotonic() + _READY_SECONDS
    while not (data / supervisor.STATE).exists():
        if not supervisor.locked(data) or time.monotonic() > end:
            raise NotUp(f"{data} is starting or stopping:\n{tail(data / 'logs/supervisor.log')}")
        time.sleep(_POLL_SECONDS)
    return state(data)


def state(data: pathlib.Path) -> dict[str, Any]:
    """What `node.json` says. NotUp when there is none, or the node has ended without clearing it away."""
    try:
        known = dict(json.loads((data / supervisor.STATE).read_text()))
    except FileNotFoundError:
        known = {}
    if not known or not running(data):
        raise NotUp(f"no node runs from {data}")
    return known


def stop(data: pathlib.Path) -> bool:
    """Stops the node and waits until it has stopped; whether there was one. NotUp when it does not stop."""
    pid = running(data)
    if not pid:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _STOP_SECONDS
    while supervisor.locked(data):
        if time.monotonic() > end:
            raise NotUp(f"process {pid} did not stop; see {data / 'logs/supervisor.log'}")
        time.sleep(_POLL_SECONDS)
    return True


def children(data: pathlib.Path) -> list[Child]:
    """The node's programs, the supervisor first."""
    known = {"supervisor": {"pid": running(data), "restarts": 0}}
    with contextlib.suppress(FileNotFoundError):
        known |= json.loads((data / supervisor.CHILDREN).read_text())
    return [_child(name, entry["pid"], entry["restarts"]) for name, entry in known.items()]


def ask(http_url: str) -> dict[str, Any]:
    """What the node says of itself (`GET /mesh/v1/node`). NotUp when it does not answer."""
    host = http_url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", "/mesh/v1/node")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        if response.status != 200:
            raise NotUp(f"the node answers {response.status}: {body[:300]}")
        return dict(json.loads(body))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotUp(f"the gateway does not answer: {error!r}") from None
    finally:
        connection.close()


def tail(log: pathlib.Path) -> str:
    """The last lines of a log, indented."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line[:300]}" for line in lines) or "  (empty log)"


def _trouble(plan: prepare.Plan) -> str:
    """Why the node is not ready; empty when it is."""
    try:
        answer = ask(f"http://{_reachable(plan.address)}:{plan.port}")
        with socket.create_connection(("127.0.0.1", plan.port + 1), timeout=1):
            pass
    except NotUp as error:
        return str(error)
    except OSError as error:
        return f"the broker does not answer: {error.strerror}"
    ready = {service["domain"]: service for service in answer.get("services", [])}
    for domain in plan.services:
        if not ready.get(domain, {}).get("ready"):
            return f"{domain} is not ready: {ready.get(domain, {}).get('trouble') or 'no reason given'}"
    return ""


def _why(data: pathlib.Path, trouble: str) -> str:
    """What is wrong, with the log of the program that is to blame, as far as that can be told."""
    restless = [child.name for child in children(data) if child.restarts > 0 or not child.pid]
    guilty = restless or ["envoy" if "gateway" in trouble else "nats" if "broker" in trouble else "services"]
    logs = [f"{data / f'logs/{name}.log'} ends:\n{tail(data / f'logs/{name}.log')}" for name in guilty]
    return "\n".join([f"not ready: {trouble}", *logs])


def _reachable(address: str) -> str:
    return "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - compared, not bound


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(OSError, IndexError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _child(name: str, pid: int, restarts: int) -> Child:
    """Size and age from /proc; a process that is gone has neither."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime = float(pathlib.Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return Child(name, 0, 0, 0.0, restarts)
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return Child(name, pid, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), uptime - began, restarts)
