"""`villagemesh invite`, `grant`, `revoke`: what the province's administrator decides about nodes."""

import datetime
import pathlib
import time
from typing import Any

import click
import grpc

from cli import transfer
from deploy.local import directory, issuer
from mesh import contract
from village.mesh.v1 import directory_pb2, handover_pb2
from village.mesh.v1 import enrolment_pb2 as pb

PATIENCE_S = 600.0


def invite(data: pathlib.Path, token: str, region: str, domains: tuple[str, ...]) -> None:
    """Prints the code."""
    invitation = pb.Invitation(about_region=region, domains=domains)
    answer = _ask(data, token, pb.InviteNodeRequest(parent=_province(data), invitation=invitation))
    click.echo(answer.code)


def grant(data: pathlib.Path, token: str, *, region: str, domain: str, node: str) -> None:
    """Grants a domain."""
    given = pb.Grant(about_region=region, domain=domain, node=node or region)
    answer = _ask(data, token, pb.GrantDomainRequest(parent=_province(data), grant=given))
    click.echo(f"{domain} of {region} is owned by node {answer.node} from epoch {answer.epoch} on")


def revoke(data: pathlib.Path, token: str, region: str) -> None:
    """Shuts a node out."""
    answer = _ask(data, token, pb.RevokeNodeRequest(name=f"{_province(data)}/enrolments/{region}"))
    click.echo(f"node {answer.about_region} is shut out")


def handover(data: pathlib.Path, token: str, *, region: str, domain: str, to: str) -> None:
    """Moves a domain, or undoes what is under way; shows each step."""
    if to:
        given = handover_pb2.Handover(about_region=region, domain=domain, receiver=to)
        it = _ask(data, token, handover_pb2.HandOverDomainRequest(parent=_province(data), handover=given))
    else:
        it = _ask(
            data, token, handover_pb2.RevertHandoverRequest(name=_under_way(data, token, region, domain))
        )
    _follow(data, token, it)


def _under_way(data: pathlib.Path, token: str, region: str, domain: str) -> str:
    """Name of the last handover of a pair."""
    wanted = f'about_region = "{region}" AND domain = "{domain}"'
    request = handover_pb2.ListHandoversRequest(parent=_province(data), filter=wanted, page_size=500)
    found = list(_ask(data, token, request).handovers)
    if not found:
        raise click.ClickException(f"no handover of {domain} in {region} was asked for")
    return str(found[-1].name)


def _follow(data: pathlib.Path, token: str, it: handover_pb2.Handover) -> None:
    said, state = "", handover_pb2.Handover.State
    ends = (state.STATE_DONE, state.STATE_REVERTED)
    until = time.monotonic() + PATIENCE_S
    while True:
        line = f"{state.Name(it.state).removeprefix('STATE_')}, {it.rows} rows copied"
        line += f": {it.trouble}" if it.trouble else ""
        if line != said:
            click.echo(line)
            said = line
        if it.state in ends:
            return
        if time.monotonic() > until:
            raise click.ClickException(
                f"{it.name} goes on by itself; `--revert` undoes it until it is granted"
            )
        time.sleep(0.5)
        it = _ask(data, token, handover_pb2.GetHandoverRequest(name=it.name))


def takeover(data: pathlib.Path, token: str, *, region: str, domain: str, reason: str) -> None:
    """The first officer asks, the second approves; what the copy lacks is said."""
    if reason:
        given = handover_pb2.Handover(about_region=region, domain=domain, receiver=region, reason=reason)
        it = _ask(data, token, handover_pb2.TakeOverDomainRequest(parent=_province(data), handover=given))
        click.echo(f"{it.name} waits for another officer: `takeover --approve` with his token")
        return
    name = _under_way(data, token, region, domain)
    it = _ask(data, token, handover_pb2.ApproveTakeoverRequest(name=name))
    lacking = it.last_number - it.copied
    click.echo(f"the province is the owner; the copy holds events up to {it.copied}")
    click.echo(f"{lacking} more were known to be there" if lacking else "no more were known to be there")


def reconcile(data: pathlib.Path, token: str, *, region: str, domain: str, check: bool) -> None:
    """Names what differs."""
    request = directory_pb2.ReconcileCopyRequest(
        parent=_province(data), about_region=region, domain=domain, only_compare=check
    )
    differences = _ask(data, token, request).differences
    for d in differences:
        click.echo(f"{d.kind}: {d.here} here, {d.there} at the owner")
        for how, names, count in (
            ("missing", d.missing, d.missing_count),
            ("other", d.other, d.other_count),
            ("extra", d.extra, d.extra_count),
        ):  # fmt: skip
            for name in names:
                click.echo(f"  {how} {name}")
            if count > len(names):
                click.echo(f"  {how}: {count - len(names)} more")
    click.echo(("differs" if check else "mended") if differences else "the same")
    if differences and check:
        raise SystemExit(1)


def _province(data: pathlib.Path) -> str:
    return f"regions/{directory.region_of(data)}"


def _ask(data: pathlib.Path, token: str, request: Any) -> Any:
    """Calls the node as its administrator: with the token given, else one of the development issuer's."""
    name, service = type(request).__name__.removesuffix("Request"), "village.mesh.v1"
    if not token:
        token = issuer.sign(
            data, subject="administrator", roles=["ADM"], region=directory.region_of(data), organisation="",
            lasting=datetime.timedelta(minutes=5),
        )  # fmt: skip
    try:
        return transfer.Client(data, token).ask(contract.read(service).methods[name], request)
    except grpc.RpcError as refusal:
        raise click.ClickException(refusal.details() or str(refusal.code())) from refusal  # type: ignore[attr-defined]
