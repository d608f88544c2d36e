"""Examines a node as an administrator would: clock, disk, secrets, ports, programs, database, backlog.
Separate, because it must work best when the node does not."""

import ctypes
import dataclasses
import datetime
import os
import pathlib
import platform
import re
import shutil
import socket
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from typing import Any, Literal

from cryptography import x509

from deploy.local import broker, directory, node, prepare, supervisor
from gateway import envoy
from mesh import trust

_TIME_NOT_SYNCHRONISED = 5
_GIB = 2**30
_LITTLE_DISK, _NO_DISK = 5 * _GIB, 1 * _GIB
_MUCH_BACKLOG = 1000
_LITTLE_TRUST, _RENEWED_TRUST = 7, 42
"""Days: both are good for 45 and renewed every day."""
_CLOCK_SECONDS = 30
"""What tokens allow."""
_LOG_BYTES = 4 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    verdict: Literal["ok", "warn", "bad"]
    what: str
    advice: str = ""


def examine(data: pathlib.Path) -> Iterator[Finding]:
    """The findings, one by one. BadNode when the directory holds no node."""
    region = directory.region_of(data)
    yield Finding("ok", f"node of region {region} ({directory.level_of(region)}) in {data}")
    yield from _versions()
    yield from _clock(data)
    yield from _disk(data)
    yield from _secrets(data)
    try:
        state = node.state(data)
    except node.NotUp as error:
        yield Finding("bad", str(error), "start it with `villagemesh up`")
        return
    yield from _ports(state)
    yield from _programs(data)
    yield from _services(state)
    if directory.joined(data):
        yield from _mesh(data, state)


def bundle(data: pathlib.Path, to: pathlib.Path, said: str) -> None:
    """Writes what was found and the ends of the logs, which hold no personal data, as a tar file; nothing of
    secrets, records, or the addresses that hold passwords."""
    with tarfile.open(to, "w:gz") as tar:
        directory.pack(tar, "doctor.txt", said.encode())
        for path in sorted((data / "logs").glob("*.log")):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                directory.pack(tar, f"logs/{path.name}", file.read())
    to.chmod(0o600)


def _versions() -> Iterator[Finding]:
    for name, command in (("Envoy", envoy.binary()), ("nats-server", broker.binary())):
        try:
            said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            yield Finding("bad", f"{name} does not run: {error}", "install the requirements again")
        else:
            number = re.search(r"\d+\.\d+\.\d+", said)
            yield Finding("ok", f"{name} {number[0] if number else said.strip()}")
    yield Finding("ok", f"Python {platform.python_version()} on {platform.machine()}")


def _clock(data: pathlib.Path) -> Iterator[Finding]:
    """Limits are counted in days and tokens in seconds: a wrong clock harms both."""
    written = [path.stat().st_mtime for path in (prepare.CONTRACTS, *(data / "data").rglob("*"))]
    ahead = max(written) - time.time()
    if ahead > 60:
        advice = "the clock was set back: correct it before the node takes writes"
        yield Finding("bad", f"files were written {ahead:.0f} s in the future", advice)
    elif ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == _TIME_NOT_SYNCHRONISED:
        yield Finding("warn", "the clock is not synchronised", "run chrony or systemd-timesyncd")
    else:
        yield Finding("ok", "the clock is synchronised")


def _disk(data: pathlib.Path) -> Iterator[Finding]:
    free = shutil.disk_usage(data).free
    verdict: Literal["ok", "warn", "bad"] = (
        "bad" if free < _NO_DISK else "warn" if free < _LITTLE_DISK else "ok"
    )
    advice = "" if verdict == "ok" else "make room: without disk nothing can be filed"
    yield Finding(verdict, f"{free / _GIB:.1f} GiB of disk are free", advice)


def _secrets(data: pathlib.Path) -> Iterator[Finding]:
    files = [
        data / "secrets",
        *(data / "secrets").iterdir(),
        data / supervisor.STATE,
        data / supervisor.PROGRAMS,
    ]
    open_to_others = [path for path in files if path.exists() and _mode(path) & 0o077]
    for path in open_to_others:
        wanted = "700" if path.is_dir() else "600"
        yield Finding("bad", f"{path} can be read by others", f"chmod {wanted} {path}")
    missing = [ring for ring in directory.RINGS if not (data / ring).exists()]
    for ring in missing:
        yield Finding("bad", f"{ring} is missing", "restore it: personal data cannot be read without it")
    if not missing and not open_to_others:
        yield Finding("ok", "the secrets are the owner's alone")


def _ports(state: dict[str, Any]) -> Iterator[Finding]:
    for name, address in (("gateway", state["grpc"]), ("broker", state["nats"].rpartition("@")[2])):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
        except OSError as error:
            log = "envoy" if name == "gateway" else "nats"
            yield Finding("bad", f"the {name} at {address}: {error.strerror}", f"see logs/{log}.log")
        else:
            yield Finding("ok", f"the {name} listens at {address}")


def _programs(data: pathlib.Path) -> Iterator[Finding]:
    for child in node.children(data):
        size = f"{child.rss_bytes / 2**20:.0f} MiB, {child.restarts} restarts"
        log = f"see logs/{child.name}.log"
        if not child.pid:
            yield Finding("bad", f"{child.name} is not running, {child.restarts} restarts", log)
        elif child.restarts:
            yield Finding("warn", f"{child.name} runs: {size}", log)
        else:
            yield Finding("ok", f"{child.name} runs: {size}")


def _services(state: dict[str, Any]) -> Iterator[Finding]:
    try:
        answer = node.ask(state["http"])
    except node.NotUp as error:
        yield Finding("bad", str(error), "see logs/services.log")
        return
    for service in answer.get("services", []):
        name, backlog = service["domain"], int(service["backlog"])
        if not service["ready"]:
            yield Finding("bad", f"{name} is not ready: {service['trouble']}", "see logs/services.log")
        else:
            yield Finding("ok", f"{name}: the database answers and takes writes")
        if backlog > _MUCH_BACKLOG:
            yield Finding("warn", f"{name}: {backlog} events wait for the broker", "see logs/nats.log")
        else:
            yield Finding("ok", f"{name}: {backlog} events wait for the broker")


def _mesh(data: pathlib.Path, state: dict[str, Any]) -> Iterator[Finding]:
    """Certificate, trust, the line to the province, and how far copies are."""
    certificate = x509.load_pem_x509_certificate((data / "trust" / trust.CERTIFICATE).read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    try:
        answer = node.ask(state["http"])
    except node.NotUp:
        return  # said above
    until = datetime.datetime.fromisoformat(answer["trustExpireTime"])
    for what, end in (("the certificate", certificate.not_valid_after_utc), ("the trust bundle", until)):
        left = (end - now).days
        verdict: Literal["ok", "warn", "bad"] = "bad" if left < _LITTLE_TRUST else "ok"
        if verdict == "ok" and left < _RENEWED_TRUST:
            verdict = "warn"
        advice = "" if verdict == "ok" else "it is renewed daily: is the line to the province up"
        yield Finding(verdict, f"{what} is good for {left} days", advice)
    if line := directory.line(data):
        yield _line(line["address"])
        yield from _news(answer)
    for copy in answer.get("copies", []):
        of = f"the copy of {copy['domain']} of {copy['region']}"
        if copy["trouble"]:
            yield Finding(
                "bad", f"{of} does not go on: {copy['trouble']}", "villagemesh reconcile compares it"
            )
        elif copy["refused"] != "0":
            yield Finding("warn", f"{of} has refused {copy['refused']} events", "see logs/services.log")
        else:
            yield Finding(
                "ok", f"{of} is {copy['behind']} events behind, as of {copy.get('asOfTime', 'never')}"
            )


def _news(answer: dict[str, Any]) -> Iterator[Finding]:
    """Whether the province answers this node, and what time it is there."""
    if why := answer["lineTrouble"]:
        yield Finding("bad", f"the province gives no news: {why}", "until it does, what is done here waits")
    if ahead := answer.get("clockAhead"):
        seconds = float(ahead.removesuffix("s"))
        far = datetime.timedelta(seconds=round(abs(seconds)))
        how = "ahead of" if seconds > 0 else "behind"
        if abs(seconds) > _CLOCK_SECONDS:
            advice = "correct it: nodes refuse the tokens of each other's people"
            yield Finding("bad", f"the clock is {far} {how} the province's", advice)
        else:
            yield Finding("ok", f"the clock agrees with the province's to {far.seconds} s")


def _line(address: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        why = error.strerror or str(error)
        return Finding("bad", f"the province at {address}: {why}", "is the way out open, on that port")
    return Finding("ok", f"the province at {address} can be reached")


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)
