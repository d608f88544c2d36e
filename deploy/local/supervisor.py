"""Keeps the programs of a node running and stops them in order: `python -m deploy.local.supervisor DIR`.
Separate from the commands that prepare and watch a node, because it stays for as long as the node runs:
standard library only, and nothing imported that it does not need."""

import ctypes
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

PROGRAMS = "run/programs.json"
"""What to run, written by whoever starts the supervisor: `{"patience": seconds, "programs": [{"name",
"command", "environment", "log"}]}`, in the order of start; stopped in the opposite one."""

CHILDREN = "run/children.json"
"""What runs, written by the supervisor: `{name: {"pid", "started", "restarts"}}`."""

STATE = "node.json"
"""Written by whoever started the supervisor when the node is ready; cleared away when it has stopped."""

PID = "run/supervisor.pid"

LOCK = "node.lock"

_FIRST_DELAY, _LONGEST_DELAY, _STEADY = 0.2, 5.0, 30.0
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class AlreadyRunning(Exception):  # noqa: N818 - an answer, not a fault
    """Another supervisor holds the node."""


@dataclasses.dataclass
class Child:
    """A program and its process, if it has one."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = -1
    delay: float = _FIRST_DELAY
    due: float = 0.0


def lock(data: pathlib.Path, *, tries: int = 5) -> int:
    """Takes the node for this process and those that inherit the descriptor; AlreadyRunning if it is taken.
    The kernel lets go of it when the last of them ends, however it ends. Tried again, because somebody may
    only be looking whether it is taken."""
    descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for left in reversed(range(tries)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if left:
                time.sleep(0.05)
    os.close(descriptor)
    raise AlreadyRunning(f"a node already runs from {data}")


def locked(data: pathlib.Path) -> bool:
    """Whether somebody has taken the node."""
    if not (data / LOCK).exists():
        return False
    try:
        os.close(lock(data, tries=1))
    except AlreadyRunning:
        return True
    return False


def run(data: pathlib.Path) -> int:
    """Runs the programs until SIGTERM or SIGINT, then stops them. The working directory becomes `data`.
    Exit code 1 when the node was stopped before it was ready."""
    os.chdir(data)
    os.umask(0o077)
    spec = json.loads(pathlib.Path(PROGRAMS).read_text())
    children = [Child(**program) for program in spec["programs"]]
    # Signals are waited for, never handled: no code runs between two lines of this file.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP | {signal.SIGCHLD})
    _write(PID, f"{os.getpid()}\n")
    received = None
    while received is None or received.si_signo not in _STOP:
        for child in children:
            _tend(child)
        _report(children)
        waits = [child.due - time.monotonic() for child in children if child.process is None]
        received = _next_signal(min(waits, default=3600.0))
    _say(f"stopping: {signal.Signals(received.si_signo).name}")
    for child in reversed(children):
        _stop(child, spec["patience"])
    was_ready = pathlib.Path(STATE).exists()
    for name in (STATE, CHILDREN, PID):
        pathlib.Path(name).unlink(missing_ok=True)
    _say("stopped")
    return 0 if was_ready else 1


def _tend(child: Child) -> None:
    """Notes the end of a child, and starts one that is due."""
    if child.process is not None and child.process.poll() is not None:
        if time.monotonic() - child.started >= _STEADY:
            child.delay = _FIRST_DELAY
        _say(f"{child.name} {_how(child.process.returncode)}; again in {child.delay:g} s, see {child.log}")
        _wait_longer(child)
    if child.process is None and time.monotonic() >= child.due:
        _start(child)


def _start(child: Child) -> None:
    child.started = time.monotonic()
    child.restarts += 1
    try:
        with open(child.log, "ab") as log:
            child.process = subprocess.Popen(
                child.command,
                env=os.environ | child.environment,  # passed on, not read
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Its own group: Ctrl-C in a terminal is for the supervisor, which keeps the order.
                process_group=0,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - there is one thread
            )
    except (OSError, subprocess.SubprocessError) as error:
        _say(f"{child.name} does not start: {error}; again in {child.delay:g} s")
        _wait_longer(child)
    else:
        _say(f"{child.name} started, process {child.process.pid}")


def _wait_longer(child: Child) -> None:
    child.process = None
    child.due = time.monotonic() + child.delay
    child.delay = min(child.delay * 2, _LONGEST_DELAY)


def _die_with(parent: int) -> Any:
    """Runs in the child before the program: the kernel kills it when the supervisor ends, however."""

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _stop(child: Child, patience: float) -> None:
    """Asks a child to end, waits, and ends it."""
    if child.process is None or child.process.poll() is not None:
        return
    child.process.terminate()
    try:
        child.process.wait(patience)
    except subprocess.TimeoutExpired:
        _say(f"{child.name} did not stop within {patience:g} s: killed")
        child.process.kill()
        child.process.wait()
    _say(f"{child.name} {_how(child.process.returncode)}")


def _next_signal(timeout: float) -> signal.struct_siginfo | None:
    return signal.sigtimedwait(_STOP | {signal.SIGCHLD}, max(timeout, 0))


def _how(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _report(children: list[Child]) -> None:
    now, wall = time.monotonic(), time.time()
    running = {
        child.name: {
            "pid": child.process.pid if child.process else 0,
            "started": wall - (now - child.started),
            "restarts": child.restarts,
        }
        for child in children
    }
    _write(CHILDREN, json.dumps(running))


def _write(name: str, text: str) -> None:
    temporary = pathlib.Path(f"{name}.new")
    temporary.write_text(text)
    temporary.replace(name)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    if len(sys.argv) < 3:  # else the lock came with the second argument, an inherited descriptor
        held = lock(folder)
    sys.exit(run(folder))
