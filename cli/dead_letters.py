"""`villagemesh dead-letters`: events that a domain gave up, listed, read, replayed and dropped, through the
methods that everybody else uses."""

import json
from typing import Any

import click
import grpc

from cli.transfer import Client
from mesh import contract, events


def listed(client: Client, domain: str, region: str, *, settled: bool) -> None:
    """A line each; only those that wait for somebody unless `settled`."""
    request: Any = _method(domain, "ListDeadLetters").request(page_size=500)
    request.parent = f"regions/{region}"
    if not settled:
        request.filter = "settled = false"
    while True:
        answer = _ask(client, domain, "ListDeadLetters", request)
        for letter in answer.dead_letters:
            when = letter.fail_time.ToJsonString()
            click.echo(f"{letter.name}  {when}  {letter.why}  {letter.subject}{'  settled' * letter.settled}")
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def act(client: Client, domain: str, verb: str, name: str) -> None:
    """`verb`: Get, Replay or Drop. Prints the event as JSON, or what became of it."""
    request: Any = _method(domain, f"{verb}DeadLetter").request()
    request.name = name
    letter = _ask(client, domain, f"{verb}DeadLetter", request)
    if verb != "Get":
        click.echo(f"{letter.name}: settled")
        return
    shown = events.as_json(letter.subject, {h.key: h.value for h in letter.headers}, letter.payload)
    click.echo(json.dumps(shown, ensure_ascii=False, indent=1))


def _method(domain: str, name: str) -> contract.Method:
    return contract.read(f"village.{domain}.v1").methods[name]


def _ask(client: Client, domain: str, name: str, request: Any) -> Any:
    try:
        return client.ask(_method(domain, name), request)
    except grpc.RpcError as fault:
        raise click.ClickException(f"the node refused: {fault.details()}") from fault
