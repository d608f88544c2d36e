"""`villagemesh invite`, `grant`, `revoke`: what the province's administrator decides about nodes."""

import datetime
import pathlib
from typing import Any

import click
import grpc

from cli import transfer
from deploy.local import directory, issuer
from mesh import contract
from village.mesh.v1 import enrolment_pb2 as pb


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


def _province(data: pathlib.Path) -> str:
    return f"regions/{directory.region_of(data)}"


def _ask(data: pathlib.Path, token: str, request: Any) -> Any:
    """Calls the node as its administrator: with the token given, else one of the development issuer's."""
    name = type(request).__name__.removesuffix("Request")
    if not token:
        token = issuer.sign(
            data, subject="administrator", roles=["ADM"], region=directory.region_of(data), organisation="",
            lasting=datetime.timedelta(minutes=5),
        )  # fmt: skip
    try:
        return transfer.Client(data, token).ask(contract.read("village.mesh.v1").methods[name], request)
    except grpc.RpcError as refusal:
        raise click.ClickException(refusal.details() or str(refusal.code())) from refusal  # type: ignore[attr-defined]
