"""A province and two counties in containers: an engine that answers or is started here, a base and an image
that are built here because nothing may be pulled, and networks between the nodes that a test can cut."""

import contextlib
import fcntl
import functools
import importlib.metadata
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import docker
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from deploy.local import prepare
from tests.mesh import PROVINCE, WUNING, XIUSHUI, Node
from tests.waiting import until

ROOT = pathlib.Path(__file__).resolve().parents[1]
PUBLISHED_BASE, BASE = "python:3.11-slim", "village-mesh-base:bookworm"
GATEWAY = 8423
OFFICE = GATEWAY + prepare.OFFICE
_SECONDS = 400
_PROGRAMS = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


class NoEngine(AssertionError):  # noqa: N818 - an answer, not a fault
    """Containers cannot be had on this machine; the text says why."""


@contextlib.contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """The engine that answers, else one that is started here and stopped at the end. Runs of tests on one
    machine take turns, because the first would stop its engine while the second uses it."""
    testcontainers_config.ryuk_disabled = True  # it would be pulled; what is started here is stopped here
    with contextlib.ExitStack() as stack:
        turn = stack.enter_context(
            (pathlib.Path(tempfile.gettempdir()) / f"village-mesh-engine-{os.geteuid()}.lock").open("a")
        )
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not _answers():
            _need("dockerd", "docker.io")
            if not _answers():  # a package may start what it installs
                stack.enter_context(_daemon())
        yield stack.enter_context(contextlib.closing(docker.from_env(timeout=_SECONDS)))


def _answers() -> bool:
    """Whether somebody listens where the engine would. Not asked by the client, which leaves open what it
    could not connect."""
    kind, _, path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
    with socket.socket(socket.AF_UNIX) as probe:
        return kind != "unix" or probe.connect_ex(path) == 0


@contextlib.contextmanager
def _daemon() -> Iterator[None]:
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and only root can start one: start dockerd")
    program = str(shutil.which("dockerd", path=_PROGRAMS))
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [program], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"PATH": _PROGRAMS}
        )
        try:
            until(lambda: _answers() or process.poll() is not None, 60)
            if process.poll() is not None:
                log.seek(0)
                raise NoEngine(f"dockerd ended with {process.returncode}:\n{log.read()[-3000:]}")
            yield
        finally:
            process.terminate()
            process.wait(60)


def _need(program: str, package: str) -> None:
    """Installs what is missing."""
    if shutil.which(program, path=_PROGRAMS):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoEngine(f"{program} is missing and cannot be installed from here: install {package}, as root")
    _run("apt-get", "update")
    _run("apt-get", "install", "-y", "--no-install-recommends", package)


def _run(*command: str) -> None:
    """Runs a program that may fail for many reasons: its words are given on."""
    surroundings = os.environ | {"PATH": _PROGRAMS, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            command, check=True, text=True, timeout=_SECONDS, env=surroundings,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as fault:
        said = fault.output if isinstance(fault.output, str) else ""
        raise NoEngine(f"{' '.join(command)}: {fault}\n{said[-3000:]}") from None


def base(client: docker.DockerClient) -> str:
    """An image with Python 3.11: what the engine has, else one made here, once, of Debian's packages."""
    for name in (PUBLISHED_BASE, BASE):
        if client.images.list(name):
            return name
    _need("debootstrap", "debootstrap")
    with tempfile.TemporaryDirectory(prefix="village-mesh-base-") as folder:
        _run("debootstrap", "--variant=minbase", "--include=python3,tzdata", "bookworm", folder)
        command = [
            "tar",
            "-C",
            folder,
            "--exclude=./var/cache/apt/*",
            "--exclude=./var/lib/apt/lists/*",
            "-c",
            ".",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
            name, tag = BASE.split(":")
            said = client.api.import_image_from_stream(tar.stdout, repository=name, tag=tag)
        if not client.images.list(BASE):
            raise NoEngine(f"the base could not be imported: {said}")
    return BASE


@contextlib.contextmanager
def image(client: docker.DockerClient) -> Iterator[str]:
    """The image of `deploy/images/Dockerfile`, of what .dockerignore lets through and the packages that the
    tests run with: there may be no package index where an image is built."""
    if sys.version_info[:2] != (3, 11):
        raise NoEngine(f"the image has Python 3.11; packages of {sys.version.split()[0]} do not fit")
    with tempfile.TemporaryDirectory(prefix="village-mesh-image-") as folder:
        context = pathlib.Path(folder)
        patterns = (ROOT / ".dockerignore").read_text().splitlines()
        for name in (*docker.utils.exclude_paths(str(ROOT), patterns), ".dockerignore"):
            if not (ROOT / name).is_dir():
                _copy(ROOT / name, context / name)
        _packages(context / "packages")
        built = DockerImage(
            path=context, dockerfile_path="deploy/images/Dockerfile", tag="village-mesh:test",
            docker_client_kw={"timeout": _SECONDS}, forcerm=True,
            buildargs={"BASE": base(client), "PACKAGES": "packages"},
        )  # fmt: skip
        with built as made:
            yield str(made)


def _packages(to: pathlib.Path) -> None:
    """What `pip install --target` would make of the locked requirements."""
    locked = (ROOT / "requirements/runtime.txt").read_text()
    for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", locked, re.MULTILINE):
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system than this
        for file in found.files or ():
            source = pathlib.Path(str(found.locate_file(file)))
            if source.exists():
                _copy(source, to / (f"bin/{file.name}" if ".." in file.parts else str(file)))


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


class Container(Node):
    """A node in a container: asked from this machine over the network of its own people."""

    def __init__(self, image: str, region: str, services: Sequence[str], *options: str) -> None:
        super().__init__(pathlib.Path("/data"), region, services, GATEWAY)
        command = ["up", "--data", "/data", "--region", region, "--address", "0.0.0.0", *options]
        self.box = DockerContainer(image).with_command([*command, "--services", ",".join(services)])
        self.own = Network(docker_network_kw={"internal": True})

    @property
    def host(self) -> str:  # type: ignore[override]
        return self.address(self.own)

    def address(self, network: Network) -> str:
        """Its address on a network; empty when it is not on it."""
        found = self.attributes["NetworkSettings"]["Networks"].get(network.name)
        return str(found["IPAddress"]) if found else ""

    @property
    def attributes(self) -> dict:  # type: ignore[type-arg]
        """What the engine says of the container."""
        box = self.box.get_wrapped_container()
        box.reload()
        return dict(box.attrs)

    @property
    def said(self) -> str:
        return b"".join(self.box.get_logs()).decode()

    def is_ready(self) -> bool:
        assert "Error:" not in self.said, self.said
        assert self.attributes["State"]["Running"], self.said
        return ", ready" in self.said

    def is_well(self) -> bool:
        return bool(self.box.exec(["villagemesh", "status", "--data", "/data"]).exit_code == 0)

    def run(self, *words: str) -> str:
        """What a program in the container prints; it must end well."""
        code, output = self.box.exec(list(words))
        assert code == 0, output.decode()
        return str(output.decode())

    def villagemesh(self, command: str, *words: str) -> str:
        """The command line, as an administrator types it beside the node."""
        return self.run("villagemesh", command, "--data", "/data", *words).strip()

    def token(self, role: str, region: str = "", subject: str = "") -> str:
        who = ("--subject", subject or f"{role}-1", "--role", role, "--region", region or self.region)
        return self.villagemesh("token", *who)

    def connections(self) -> set[tuple[int, str, int]]:
        """The open TCP connections: the own port, and the other's address and port."""
        found = set()
        for line in self.run("cat", "/proc/net/tcp").splitlines()[1:]:
            _, here, there, state, *_ = line.split()
            if state == "01":
                ip, _, port = there.partition(":")
                other = ".".join(str(byte) for byte in reversed(bytes.fromhex(ip)))
                found.add((int(here.partition(":")[2], 16), other, int(port, 16)))
        return found


class Containers:
    """A province and two counties. Each has a network of its own people, and each county one with the
    province, its line; none of them leads anywhere else. A context manager."""

    def __init__(self, image: str) -> None:
        self._image, self._stack = image, contextlib.ExitStack()
        self.lines: dict[str, Network] = {}

    def __enter__(self) -> "Containers":
        with self._stack:  # what was begun ends, unless all of it came up
            self.province = Container(self._image, PROVINCE, ("habitat",), "--office-address", "0.0.0.0")
            self._stack.enter_context(self.province.own)
            self._stack.enter_context(self.province.box.with_network(self.province.own))
            until(self.province.is_ready, 60)
            self.wuning, self.xiushui = self._county(WUNING, "habitat"), self._county(XIUSHUI)
            until(self.wuning.is_ready, 60)
            until(self.xiushui.is_ready, 60)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _county(self, region: str, *services: str) -> Container:
        """Starts a county's node, with a code that grants it what it runs."""
        line = self.lines[region] = self._stack.enter_context(Network(docker_network_kw={"internal": True}))
        self._stack.callback(self.cut, self.province, line)
        line.connect(self.province.box.get_container_id(), ["province"])
        code = self.province.villagemesh("invite", "--region", region, "--services", ",".join(services))
        joining = ("--province", f"https://province:{OFFICE}", "--invite", code)
        made = Container(self._image, region, services, *joining)
        self._stack.enter_context(made.own)
        self._stack.enter_context(made.box.with_network(line))
        made.own.connect(made.box.get_container_id())
        return made

    @staticmethod
    def cut(node: Container, network: Network) -> None:
        """Takes a node off a network."""
        client = node.box.get_docker_client().client
        client.networks.get(network.name).disconnect(node.box.get_container_id(), force=True)

    @staticmethod
    def restore(node: Container, network: Network) -> None:
        network.connect(node.box.get_container_id())

    @functools.cached_property
    def resident(self) -> str:
        """A token of a resident of Wuning."""
        return self.wuning.token("CZ")

    @functools.cached_property
    def official(self) -> str:
        """A token of an official of Wuning."""
        return self.wuning.token("KA")
