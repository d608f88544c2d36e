"""`villagemesh audit verify`: what the trails of a node prove."""

import dataclasses
import json
import pathlib
from typing import Any

import click
from cryptography.hazmat.primitives import serialization

from cli import serve
from deploy.local import directory
from mesh import config, database, seals, store


def verify(data: pathlib.Path, keys: tuple[pathlib.Path, ...], *, as_json: bool) -> None:
    """Prints a proof per domain; exit code 1 when something is wrong."""
    settings, domains = serve.of_node(data)
    public: list[Any] = [
        serialization.load_pem_public_key(path.read_bytes())
        for path in keys or [data / directory.AUDIT_PUBLIC]
    ]
    found = {domain: _verify(domain, settings, public) for domain in domains}
    if as_json:
        click.echo(json.dumps({k: dataclasses.asdict(v) for k, v in found.items()}, ensure_ascii=False))
    else:
        for domain, proof in found.items():
            _say(domain, proof)
    if any(proof.wrong for proof in found.values()):
        raise SystemExit(1)


def _verify(domain: str, settings: config.Settings, public: list[Any]) -> seals.Proof:
    opened = database.Database(settings.database_url.replace("{domain}", domain), threads=1)
    try:
        plumbing = store.schema(serve.service(domain).resources).plumbing
        anchors = seals.Anchors(settings.anchors, domain).read()
        return seals.verify(opened, plumbing, domain, public, anchors)
    finally:
        opened.close()


def _say(domain: str, proof: seals.Proof) -> None:
    click.echo(f"{domain}: {proof.rows} rows, of which {proof.unsealed} are not sealed yet")
    click.echo(
        f"  proven   seals 1 to {proof.proven_to} of {proof.sealed_to}, until {proof.proven_until or '-'}"
    )
    if proof.anchored_to < proof.sealed_to:
        click.echo(f"  unanchored  seals {proof.anchored_to + 1} to {proof.sealed_to}")
    for wrong in proof.wrong:
        click.echo(f"  wrong    {wrong}")
