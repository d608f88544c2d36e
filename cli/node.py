"""The commands that start, stop and show a node. Separate from the words of the command line, because these
fetch what the words alone do not need."""

import contextlib
import datetime
import json
import os
import pathlib
import re
import secrets
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from deploy.local import directory, issuer, supervisor
from deploy.local import node as local
from deploy.local import prepare as preparing
from gateway import published
from mesh import config


def up(
    data: pathlib.Path,
    *,
    region: str,
    services: tuple[str, ...],
    port: int,
    address: str,
    cors_origins: tuple[str, ...],
    database: str,
    issuers: pathlib.Path | None,
    joining: tuple[str, str] | None,
    office_address: str,
    feeds: str,
    calls_per_second: int,
    calls_per_caller: int,
    detach: bool,
) -> None:
    """Starts the node, or shows it when it runs already."""
    with _refusals():
        known = published.domains(published.read(preparing.CONTRACTS))
        if not services and joining is None and not directory.line(data):
            raise click.UsageError(f"no domain named; there are: {', '.join(known)}")
        if unknown := sorted(set(services) - set(known)):
            raise click.UsageError(f"no domain {', '.join(unknown)}; there are: {', '.join(known)}")
        before = preparing.remembered(data)
        database = database or before["database"]
        issuers = issuers or (pathlib.Path(before["issuers"]) if before["issuers"] else None)
        if database and "{domain}" not in database:
            raise click.UsageError("--database needs {domain} in it: each domain has its own database")
        otlp, trace_ratio = config.traces()
        plan = preparing.Plan(
            region=region,
            services=services,
            port=port,
            address=address,
            cors_origins=cors_origins,
            database=database,
            issuers=issuers,
            joining=joining,
            office_address=office_address,
            feeds=feeds,
            calls_per_second=calls_per_second,
            calls_per_caller=calls_per_caller,
            otlp=otlp,
            trace_ratio=trace_ratio,
        )
        try:
            if not detach:
                _become_supervisor(data, plan)
            _show(local.start(data, plan), "ready")
        except supervisor.AlreadyRunning:
            _show(local.wait(data), "already running")


def device(data: pathlib.Path, number: str) -> None:
    """Lets a station report by MQTT, and prints the password for it; a new one each time."""
    import asyncio

    from deploy.local import broker
    from mesh import bus

    if not re.fullmatch(r"[A-Za-z0-9]{6,24}", number):
        raise click.UsageError("a device's number has 6 to 24 letters and digits")
    with _refusals():
        region, users = directory.region_of(data), data / directory.USERS
        password = secrets.token_urlsafe(18)
        kept = [u for u in json.loads(users.read_text())["users"] if u["user"] != number]
        told = {"users": [*kept, broker.device(number, password, region)]}
        directory.replace(users, json.dumps(told, indent=1))
        if supervisor.locked(data):
            port = local.state(data)["nats"].rpartition(":")[2]
            asyncio.run(bus.reload(preparing.broker_url(data, "system", int(port))))
        click.echo(password)


def down(data: pathlib.Path) -> None:
    """Stops the node."""
    with _refusals():
        click.echo("stopped" if local.stop(data) else f"no node runs from {data}")


def prepare(data: pathlib.Path, region: str) -> None:
    """Prepares the directory of a node that does not run."""
    with _refusals():
        if supervisor.locked(data):
            raise local.NotUp(f"a node runs from {data}: stop it first")
        preparing.prepare(data, region or directory.region_of(data))


def status(data: pathlib.Path, *, as_json: bool) -> None:
    """Prints the node's state, its services and its processes."""
    with _refusals():
        state = local.state(data)
        children = local.children(data)
    answer: dict[str, Any] = {}
    trouble = ""
    try:
        answer = local.ask(state["http"])
    except local.NotUp as refusal:
        trouble = str(refusal)
    if as_json:
        found = {**state, "trouble": trouble, "node": answer, "children": [vars(child) for child in children]}
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _show_all(state, trouble, answer, children)
    sys.exit(bool(trouble))


def _show_all(
    state: dict[str, Any], trouble: str, answer: dict[str, Any], children: list[local.Child]
) -> None:
    _show(state, trouble or "running")
    for service in answer.get("services", []):
        condition = "ready" if service["ready"] else f"NOT READY: {service['trouble']}"
        click.echo(
            f"  {service['domain']:<14} {condition}, {service['backlog']} events not yet at the broker"
        )
    if answer.get("province"):
        _show_mesh(answer)
    for child in children:
        age = datetime.timedelta(seconds=int(child.uptime_seconds))
        line = (
            f"process {child.pid}, {child.rss_bytes / 2**20:.0f} MiB, up {age}"
            if child.pid
            else "NOT RUNNING"
        )
        click.echo(f"  {child.name:<14} {line}, {child.restarts} restarts")


def _show_mesh(answer: dict[str, Any]) -> None:
    """What the node knows of the mesh, and how far its copies are."""
    own = answer["region"]
    until = answer["trustExpireTime"][:10]
    click.echo(
        f"  province       {answer['province']}, directory {answer['directoryVersion']}, "
        f"trusted until {until}"
    )
    if answer["lineTrouble"]:
        click.echo(f"  line           TROUBLE: {answer['lineTrouble']}")
    ahead = float(answer.get("clockAhead", "0s").removesuffix("s"))
    if abs(ahead) > 30:
        click.echo(f"  clock          WRONG: {ahead:+.0f} s to the province's")
    for node in answer["nodes"]:
        owned = [f"{g['domain']} of {g['region']}" for g in answer["grants"] if g["node"] == node["region"]]
        how = "SHUT OUT" if node["revoked"] else f"version {node['software']}"
        rest = "the rest" if node["region"] == answer["province"] else "nothing"
        line = f"{how}, owns {', '.join(owned) or rest}" + (" (this node)" if node["region"] == own else "")
        click.echo(f"  node {node['region']:<9} {line}")
    for copy in answer["copies"]:
        of = f"{copy['domain']} of {copy['region']}"
        line = f"{copy['behind']} events behind, as of {copy.get('asOfTime', 'never')}"
        line += f", {copy['refused']} refused" if copy["refused"] != "0" else ""
        line += f", TROUBLE: {copy['trouble']}" if copy["trouble"] else ""
        click.echo(f"  copy           {of}: {line}")


def token(
    data: pathlib.Path,
    *,
    subject: str,
    roles: tuple[str, ...],
    region: str,
    organisation: str,
    ttl: datetime.timedelta,
) -> None:
    """Prints a token."""
    from mesh import regions
    from village.options.v1 import options_pb2

    known = [name.removeprefix("ROLE_") for name in options_pb2.Role.keys()[1:]]
    if wrong := sorted(set(roles) - set(known)):
        raise click.UsageError(f"no role {', '.join(wrong)}; there are: {', '.join(known)}")
    if not regions.valid(region):
        raise click.UsageError(f"{region!r} is neither a region (6 digits) nor a division (9 or 12)")
    if organisation and not regions.uscc_valid(organisation):
        raise click.UsageError(f"{organisation!r} has a wrong check character (GB 32100-2015)")
    with _refusals():
        signed = issuer.sign(
            data, subject=subject, roles=roles, region=region, organisation=organisation, lasting=ttl
        )
    click.echo(signed)


def doctor(data: pathlib.Path, bundle: pathlib.Path | None) -> None:
    """Prints what is right and wrong with a node; exit code 1 when something is bad. `bundle`: a file for
    whoever helps, with this and the logs."""
    from deploy.local import doctor as examining

    bad, lines = False, []
    with _refusals():
        for finding in examining.examine(data):
            bad = bad or finding.verdict == "bad"
            advice = f" -> {finding.advice}" if finding.advice else ""
            lines.append(f"{finding.verdict:<4} {finding.what}{advice}")
            click.echo(lines[-1])
        if bundle is not None:
            examining.bundle(data, bundle, "\n".join(lines) + "\n")
            click.echo(f"{bundle}: this and the logs, without secrets or personal data")
    sys.exit(bad)


def _become_supervisor(data: pathlib.Path, plan: preparing.Plan) -> NoReturn:
    """Replaces this process, so that what stays is small. Another one waits until the node is ready, says
    so and ends; it is nobody's child, because the supervisor has to know all of its own."""
    pid = os.getpid()
    with local.prepared(data, plan) as held:
        if not (middle := os.fork()):
            if not os.fork():
                os.close(held)
                _announce(data, plan, pid)
            os._exit(0)
        os.waitpid(middle, 0)
        os.set_inheritable(held, True)
        surroundings = os.environ | preparing.python_environment()  # passed on, not read
        os.execve(sys.executable, local.command(data, held), surroundings)  # noqa: S606 - that is the point


def _announce(data: pathlib.Path, plan: preparing.Plan, pid: int) -> None:
    """Says that the node is ready, or why it is not, and then stops it."""
    try:
        _show(local.announce(data, plan, pid), "ready")
    except local.NotUp as refusal:
        click.echo(f"Error: {refusal}", err=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    sys.stdout.flush()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns what can go wrong into a sentence and exit code 1."""
    try:
        yield
    except (local.NotUp, directory.BadNode, ValueError, FileNotFoundError) as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _show(state: dict[str, Any], how: str) -> None:
    click.echo(f"node of region {state['region']} ({state['level']}), {how}")
    click.echo(f"  http           {state['http']}")
    click.echo(f"  grpc           {state['grpc']}")
    click.echo(f"  nats           {state['nats'].rpartition('@')[2]} (password in node.json)")
    click.echo(f"  services       {', '.join(state['services'])}")
