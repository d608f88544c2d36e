"""`python -m bench [--only TEXT]… [--events N]`: prints every figure, or those whose names contain a TEXT,
and writes them to bench/out/results.json. docs/benchmarks.md says what each is."""

import argparse
import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator

import sqlalchemy as sa

from bench import (
    copying,
    figures,
    load,
    maps,
    mesh,
    node,
    pages,
    places,
    reactions,
    relay,
    services,
    telemetry,
    tracing,
)
from deploy.local import broker
from gateway import envoy

NAMES = [
    *(
        *services.NAMES,
        *tracing.NAMES,
        *reactions.NAMES,
        *pages.NAMES,
        *maps.NAMES,
        *relay.NAMES,
        *node.NAMES,
    ),
    *(*copying.NAMES, *mesh.NAMES, *telemetry.NAMES),
]
LIBRARIES = ("grpcio", "protobuf", "sqlalchemy", "psycopg", "nats-py")


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", metavar="TEXT", help=f"of {', '.join(NAMES)}; repeatable")
    parser.add_argument(
        "--events", type=int, default=copying.EVENTS, metavar="N", help="of a county's backlog"
    )
    given = parser.parse_args()
    asked = given.only or [""]
    names = [name for name in NAMES if any(text in name for text in asked)]
    if not names:
        parser.error(f"no figure is called so; there are {', '.join(NAMES)}")
    begun, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # PostgreSQL serves as another user than root
        needs_server = any(".postgresql" in name for name in names)
        with places.postgresql(pathlib.Path(folder)) if needs_server else contextlib.nullcontext() as server:
            machine = {**_machine(), **_versions(server)}
            print(
                "\n".join(f"{k}: {v}" for k, v in machine.items()), "", figures.HEADER, sep="\n", flush=True
            )
            for figure in _measure(names, pathlib.Path(folder), server, given.events):
                found.append(figure)
                print(figure.line(), flush=True)
    figures.write(found, machine)
    print(f"\n{len(found)} figures in {time.monotonic() - begun:.0f} s, written to bench/out/results.json")


def _measure(
    names: list[str], folder: pathlib.Path, server: sa.URL | None, count: int
) -> Iterator[figures.Figure]:
    if wanted := [name for name in names if name in node.NAMES]:
        yield from node.measure(wanted, folder)
    if wanted := [name for name in names if name in relay.NAMES]:
        yield from relay.measure(wanted, folder, server)
    if wanted := [name for name in names if name in copying.NAMES]:
        yield from copying.measure(wanted, folder, server, count)
    if wanted := [name for name in names if name in mesh.NAMES]:
        yield from mesh.measure(wanted, folder, server, count)
    if wanted := [name for name in names if name in telemetry.NAMES]:
        yield from telemetry.measure(wanted, folder, server)
    if wanted := [name for name in names if name in tracing.NAMES]:
        yield from tracing.measure(wanted, folder, server)
    if wanted := [name for name in names if name in reactions.NAMES]:
        yield from reactions.measure(wanted, folder, server)
    if wanted := [name for name in names if name in pages.NAMES]:
        yield from pages.measure(wanted, folder, server)
    if wanted := [name for name in names if name in maps.NAMES]:
        yield from maps.measure(wanted, folder, server)
    if wanted := [name for name in names if name in services.NAMES]:
        yield from services.measure(wanted, folder, server)


def _machine() -> dict[str, str]:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", text)
    cores = len(os.sched_getaffinity(0))
    return {
        "machine": f"{cores} cores, {model[1] if model else platform.machine()}, "
        f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB, {platform.system()}",
        "load average before": figures.load_average(),
    }


def _versions(server: sa.URL | None) -> dict[str, str]:
    said = {"Envoy": [envoy.binary(), "--version"], "nats-server": [broker.binary(), "--version"]}
    if load.H2LOAD:
        said["h2load"] = [load.H2LOAD, "--version"]
    found = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    if server is not None:
        engine = sa.create_engine(server, poolclass=sa.NullPool)
        with engine.connect() as connection:
            found.append(f"PostgreSQL {connection.execute(sa.text('SHOW server_version')).scalar()}")
    for name, command in said.items():
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        number = re.search(r"\d+\.\d+\.\d+", answer)
        found.append(f"{name} {number[0] if number else '?'}")
    found += [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return {"versions": ", ".join(found)}


if __name__ == "__main__":
    main()
