"""`villagemesh conform`: the tokens and files of a run, what it prints, and its exit code: 0 when nothing
was found, 1 when something was, 2 when it could not run."""

import datetime
import json
import pathlib
import re
from typing import Any, NoReturn

import click

from conform import announced, callers, requests, rules, run, target
from deploy.local import directory, issuer
from village.options.v1 import options_pb2
from village.type.v1 import level_pb2

LASTING = datetime.timedelta(hours=1)


def conform(
    address: str,
    *,
    domains: tuple[str, ...],
    region: str,
    tokens: pathlib.Path | None,
    data: pathlib.Path | None,
    write: bool,
    nats: str,
    samples: pathlib.Path | None,
    only: tuple[str, ...],
    ca: pathlib.Path | None,
    junit: pathlib.Path | None,
) -> None:
    """Runs the checks, prints what came of them and writes `junit`."""
    if unknown := sorted(set(only) - set(rules.BY_NAME)):
        _cannot(f"no rule {', '.join(unknown)}; there are: {', '.join(rules.BY_NAME)}")
    if nats and not write:
        _cannot("--nats goes with --write: what is announced is what was written")
    if region and not re.fullmatch("[1-9][0-9]{5}", region):
        _cannot(f"{region!r} is no region of six digits")
    try:
        known = _tokens(tokens, data)
        given, broker = _samples(samples), nats or (_broker(data) if data is not None and write else "")
    except (callers.BadTokens, directory.BadNode, ValueError) as fault:
        _cannot(str(fault))
    endpoint = target.Target(address, ca.read_bytes() if ca is not None else None)
    try:
        plan = run.Plan(
            target=endpoint, region=region or (run.region_of(known) if known else ""), tokens=known,
            domains=domains, write=write, nats=broker, only=frozenset(only), samples=given,
        )  # fmt: skip
        found = run.run(plan)
    except (run.CannotRun, target.Unreachable, announced.NoBroker) as fault:
        _cannot(str(fault))
    finally:
        endpoint.close()
    click.echo(found.text())
    if junit is not None:
        junit.write_bytes(found.junit(f"conform {address}"))
    raise SystemExit(1 if found.failed_any else 0)


def _cannot(why: str) -> NoReturn:
    click.echo(f"Error: {why}", err=True)
    raise SystemExit(2)


def _tokens(path: pathlib.Path | None, data: pathlib.Path | None) -> list[callers.Caller]:
    known = callers.read(path.read_text(encoding="utf-8")) if path is not None else []
    if path is not None and not known:
        raise ValueError(f"{path} holds no token")
    return known + (callers.read("\n".join(_signed(data))) if data is not None else [])


def _samples(path: pathlib.Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise ValueError(f'{path} is not {{"METHOD": {{request}}, …}}')
    return found


def _broker(data: pathlib.Path) -> str:
    try:
        return str(json.loads((data / "node.json").read_text())["nats"])
    except FileNotFoundError:
        raise ValueError(f"no node runs from {data}") from None


def _signed(data: pathlib.Path) -> list[str]:
    """A token of each role that the node's development issuer may vouch for, where such a person works."""
    region = directory.region_of(data)
    highest = level_pb2.Level.Value(f"LEVEL_{directory.level_of(region)}")
    found = []
    for value in options_pb2.Role.DESCRIPTOR.values[1:]:
        role, level = value.name.removeprefix("ROLE_"), value.GetOptions().Extensions[options_pb2.role].level
        if role == "SYS" or level > highest:
            continue
        place = {level_pb2.LEVEL_VILLAGE: f"{region}100201", level_pb2.LEVEL_TOWNSHIP: f"{region}100"}
        found.append(
            issuer.sign(
                data, subject=f"conform-{role.lower()}", roles=[role], region=place.get(level, region),
                organisation="" if role in ("CZ", "PUB", "DEV") else requests.uscc(region), lasting=LASTING,
            )
        )  # fmt: skip
    return found
