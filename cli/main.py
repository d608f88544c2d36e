"""What a person types: `villagemesh …`. Only the words are here; each command fetches what it needs when it
runs, so that a node's supervisor starts small and `--help` is quick."""

import datetime
import pathlib
import re

import click

_DATA = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    required=True,
    help="Directory of the node.",
)

_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)
_THERE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Village Mesh: one service per ministry domain; a county runs what it chooses."""


def _span(text: str) -> datetime.timedelta:
    """A span of time as in 90s, 30m, 1h, 7d."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found or int(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is not a span as in 90s, 30m, 1h, 7d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
    return datetime.timedelta(**{unit: int(found[1])})


@main.command()
@_DATA
@click.option("--region", required=True, help="GB/T 2260 code of the region, six digits.")
@click.option("--services", default="", help="Domains to run, separated by commas; none: the province's.")
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    default=8423,
    show_default=True,
    help="The broker takes the next.",
)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address the gateway listens on.")
@click.option("--province", default="", help="Address of the province's office, as in https://HOST:PORT.")
@click.option("--invite", default="", help="Code that the province gave; needed once.")
@click.option(
    "--office-address",
    default="",
    help="At a province: where other nodes call. Default: the gateway's address.",
)
@click.option(
    "--feeds", default="", help="Where devices report: hj212=HOST:PORT,mqtt=HOST:PORT, either or both."
)
@click.option("--detach", is_flag=True, help="Return when the node is ready.")
@click.option("--cors-origin", "cors_origins", multiple=True, help="Origin whose pages may call; repeatable.")
@click.option(
    "--database",
    default="",
    help="SQLAlchemy URL with {domain}. Default: as last time, at first SQLite files in DIR.",
)
@click.option(
    "--calls-per-second",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Calls let in, in all.",
)
@click.option(
    "--calls-per-caller", type=click.IntRange(0), default=0, help="Calls let in of one caller.  [a quarter]"
)
@click.option("--production", is_flag=True, help="No development issuer; needs --issuers. Remembered.")
@click.option(
    "--issuers",
    type=_THERE,
    help="File that says whose tokens count.",
)
def up(
    *,
    data: pathlib.Path,
    region: str,
    services: str,
    port: int,
    address: str,
    province: str,
    invite: str,
    office_address: str,
    feeds: str,
    detach: bool,
    cors_origins: tuple[str, ...],
    database: str,
    production: bool,
    issuers: pathlib.Path | None,
    calls_per_second: int,
    calls_per_caller: int,
) -> None:
    """Start a node: broker, services and gateway."""
    from cli import node

    if invite and not province:
        raise click.UsageError("--invite goes with --province")
    if production != (issuers is not None):
        raise click.UsageError("--production and --issuers go together")
    node.up(
        data,
        region=region,
        services=tuple(dict.fromkeys(filter(None, services.split(",")))),
        port=port,
        address=address,
        cors_origins=cors_origins,
        database=database,
        issuers=issuers,
        joining=(province, invite) if province else None,
        office_address=office_address,
        feeds=feeds,
        calls_per_second=calls_per_second,
        calls_per_caller=calls_per_caller,
        detach=detach,
    )


@main.command()
@_DATA
@click.option("--number", required=True, help="The station's device number (MN).")
def device(*, data: pathlib.Path, number: str) -> None:
    """Let a station report by MQTT; prints its password."""
    from cli import node

    node.device(data, number)


_ADMINISTRATOR = click.option(
    "--token", envvar="VILLAGEMESH_TOKEN", default="", help="Of an ADM. Default: the development issuer's."
)


@main.command()
@_DATA
@click.option("--region", required=True, help="The region whose node may join, six digits.")
@click.option("--services", default="", help="Domains granted to it when it joins, separated by commas.")
@_ADMINISTRATOR
def invite(*, data: pathlib.Path, region: str, services: str, token: str) -> None:
    """Print a code with which one node may join this province, once."""
    from cli import mesh

    mesh.invite(data, token, region, tuple(filter(None, services.split(","))))


@main.command()
@_DATA
@click.option("--region", required=True, help="The region, six digits.")
@click.option("--domain", required=True, help="As in habitat.")
@click.option("--to", default="", help="The node, by its region. Default: the region's own.")
@_ADMINISTRATOR
def grant(*, data: pathlib.Path, region: str, domain: str, to: str, token: str) -> None:
    """Make a node the owner of a domain of a region."""
    from cli import mesh

    mesh.grant(data, token, region=region, domain=domain, node=to)


@main.command()
@_DATA
@click.option("--region", required=True, help="The region that the node is of, six digits.")
@_ADMINISTRATOR
def revoke(*, data: pathlib.Path, region: str, token: str) -> None:
    """Shut a node out of the mesh."""
    from cli import mesh

    mesh.revoke(data, token, region)


@main.command()
@_DATA
@click.option("--region", required=True, help="The region, six digits.")
@click.option("--domain", required=True, help="As in habitat.")
@click.option("--to", default="", help="The node, by its region.")
@click.option("--revert", is_flag=True, help="Undo the handover that is under way.")
@_ADMINISTRATOR
def handover(*, data: pathlib.Path, region: str, domain: str, to: str, revert: bool, token: str) -> None:
    """Move a domain of a region to another node; returns when it is done."""
    from cli import mesh

    if bool(to) == revert:
        raise click.UsageError("either --to or --revert")
    mesh.handover(data, token, region=region, domain=domain, to=to)


@main.command()
@_DATA
@click.option("--region", required=True, help="The region, six digits.")
@click.option("--domain", required=True, help="As in habitat.")
@click.option("--reason", default="", help="Why its owner is given up; for the first officer.")
@click.option("--approve", is_flag=True, help="For the second officer.")
@_ADMINISTRATOR
def takeover(*, data: pathlib.Path, region: str, domain: str, reason: str, approve: bool, token: str) -> None:
    """Take a domain over from an owner that is lost: two officers, one after the other."""
    from cli import mesh

    if bool(reason) == approve:
        raise click.UsageError("--reason to ask for it, or --approve by another officer")
    mesh.takeover(data, token, region=region, domain=domain, reason=reason)


@main.command()
@_DATA
@click.option("--region", required=True, help="The region whose copy is compared, six digits.")
@click.option("--domain", required=True, help="As in habitat.")
@click.option("--check", is_flag=True, help="Only compare.")
@_ADMINISTRATOR
def reconcile(*, data: pathlib.Path, region: str, domain: str, check: bool, token: str) -> None:
    """Compare a copy with its owner, name what differs, and mend it."""
    from cli import mesh

    mesh.reconcile(data, token, region=region, domain=domain, check=check)


@main.command()
@_DATA
def down(data: pathlib.Path) -> None:
    """Stop a node; its data is kept."""
    from cli import node

    node.down(data)


@main.command()
@_DATA
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(data: pathlib.Path, as_json: bool) -> None:
    """Show a node, its services and its processes."""
    from cli import node

    node.status(data, as_json=as_json)


@main.command()
@_DATA
@click.option("--subject", required=True, help="Who: `sub` of the token.")
@click.option("--role", "roles", multiple=True, required=True, help="As in KA; repeatable.")
@click.option("--region", required=True, help="Region (6 digits) or division (9 or 12).")
@click.option("--organisation", default="", help="Unified social credit code (GB 32100-2015).")
@click.option(
    "--ttl", type=_span, metavar="SPAN", default="1h", show_default=True, help="As in 90s, 30m, 1h, 7d."
)
def token(
    *,
    data: pathlib.Path,
    subject: str,
    roles: tuple[str, ...],
    region: str,
    organisation: str,
    ttl: datetime.timedelta,
) -> None:
    """Print a token signed by the node's development issuer."""
    from cli import node

    node.token(data, subject=subject, roles=roles, region=region, organisation=organisation, ttl=ttl)


@main.command()
@_DATA
@click.option("--bundle", type=_FILE, default=None, help="File to write for whoever helps.")
def doctor(data: pathlib.Path, bundle: pathlib.Path | None) -> None:
    """Examine a node; say what is wrong and what to do."""
    from cli import node

    node.doctor(data, bundle)


@main.command()
@_DATA
@click.option("--region", default="", help="Needed for a directory that holds no node yet.")
@click.option(
    "--reports",
    type=click.IntRange(1),
    default=6343,
    show_default=True,
    help="How many; the default is a county's year, which takes a minute or two.",
)
def sample(*, data: pathlib.Path, region: str, reports: int) -> None:
    """Fill a new node with sample data, before its first start."""
    from cli import node, sample

    node.prepare(data, region)
    sample.sample(data, reports)


@main.command()
@click.argument("domains", nargs=-1, required=True)
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="More than 1 on PostgreSQL."
)
def serve(domains: tuple[str, ...], processes: int) -> None:
    """Run services, or `node`, configured by the environment."""
    from cli import serve

    serve.serve(domains, processes)


@main.command()
@click.argument("target")
@click.option("--domain", "domains", multiple=True, help="As in habitat; repeatable. Default: all it shows.")
@click.option("--region", default="", help="Six digits. Default: that of the tokens.")
@click.option(
    "--tokens",
    type=_THERE,
    help="File with tokens, as of several roles; what each claims is read from it.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    help="Directory of a node for development: its issuer signs the tokens, its broker is listened at.",
)
@click.option(
    "--write", is_flag=True, help="Create records, and send what must be refused to methods that write."
)
@click.option("--nats", default="", help="URL of the broker that events come to; with --write.")
@click.option(
    "--samples", type=_THERE, help="JSON: requests by method, where the contract does not say enough."
)
@click.option("--only", multiple=True, metavar="RULE", help="As in page-walk; repeatable.")
@click.option("--ca", type=_THERE, help="PEM of who signed the endpoint's certificate.")
@click.option("--junit", type=_FILE, help="File to write, in JUnit XML.")
def conform(
    *,
    target: str,
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
    """Check whether what answers at TARGET keeps the rules of the domain it serves; by itself only reads."""
    from cli import conform

    conform.conform(
        target,
        domains=domains,
        region=region,
        tokens=tokens,
        data=data,
        write=write,
        nats=nats,
        samples=samples,
        only=only,
        ca=ca,
        junit=junit,
    )


@main.command()
@_DATA
@click.option("--subject", default="village.>", show_default=True, help="As in 'village.36.>'.")
@click.option("--from", "start", type=click.IntRange(1), default=None, help="Replay from this number on.")
@click.option("--since", default="", help="Replay from so long ago on, as in 10m.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def events(data: pathlib.Path, subject: str, start: int | None, since: str, as_json: bool) -> None:
    """Follow the events of a node, or replay them."""
    from cli import events

    if start is not None and since:
        raise click.UsageError("--from and --since say the same")
    moment = datetime.datetime.now(datetime.UTC) - _span(since) if since else None
    events.events(data, subject, start or moment, as_json)


@main.command()
@_DATA
@click.option("--to", type=_FILE, required=True, help="File to write, as in node.tar.gz.")
@click.option("--keys-for", "recipients", multiple=True, help="age recipient whose identity opens the keys.")
def backup(data: pathlib.Path, to: pathlib.Path, recipients: tuple[str, ...]) -> None:
    """Copy a node's data into one file, while it runs; keys only for named recipients."""
    from cli import backup

    backup.backup(data, to, recipients)


@main.command()
@_DATA
@click.option("--from", "source", type=_FILE, required=True, help="File that `backup` wrote.")
@click.option("--identity", type=_FILE, default=None, help="age identity that opens the keys inside.")
@click.option(
    "--database", default="", help="Of a copy of PostgreSQL: URL of empty databases, with {domain} in it."
)
def restore(data: pathlib.Path, source: pathlib.Path, identity: pathlib.Path | None, database: str) -> None:
    """Put a node back into an empty directory, and on PostgreSQL into empty databases."""
    from cli import backup

    backup.restore(data, source, identity, database)


_TOKEN = click.option("--token", envvar="VILLAGEMESH_TOKEN", required=True, help="Or VILLAGEMESH_TOKEN.")
_KIND = click.argument("kind", metavar="DOMAIN/RECORDS")
_SHEET = click.argument("path", metavar="FILE", type=_FILE)


@main.command("import")
@_DATA
@_KIND
@_SHEET
@_TOKEN
@click.option("--region", required=True, help="The county, six digits.")
def import_(*, data: pathlib.Path, kind: str, path: pathlib.Path, token: str, region: str) -> None:
    """Add records from a CSV or XLSX file, as in `import habitat/reports FILE`; a rerun adds nothing."""
    from cli import sheets, transfer

    try:
        client = transfer.Client(data, token)
        found = transfer.load(client, transfer.kind(*kind.split("/", 1)), path, f"regions/{region}")
    except sheets.BadSheet as fault:
        raise click.ClickException(str(fault)) from fault
    click.echo(f"{found.added} added, {found.there} there already, {found.wrong} wrong")
    if found.wrong:
        raise SystemExit(1)


@main.command()
@_DATA
@_KIND
@_SHEET
@_TOKEN
@click.option("--region", required=True, help="The region whose subtree is written.")
@click.option("--filter", "filter_", default="", help="As in 'state = CLOSED'.")
@click.option(
    "--encoding", type=click.Choice(["utf-8-sig", "gb18030"]), default="utf-8-sig", show_default=True
)
def export(
    *, data: pathlib.Path, kind: str, path: pathlib.Path, token: str, region: str, filter_: str, encoding: str
) -> None:
    """Write records that the caller may see, or figures, to a CSV or XLSX file, as in `export habitat/figures
    FILE`."""
    from cli import transfer

    query = {"parent": f"regions/{region}", "filter": filter_}
    client = transfer.Client(data, token)
    count = transfer.save(client, transfer.kind(*kind.split("/", 1)), path, query, encoding)
    click.echo(f"{path}: {count} records")


@main.command("dead-letters")
@_DATA
@click.argument("verb", type=click.Choice(["list", "read", "replay", "drop"]))
@click.argument("name", default="")
@click.option("--domain", required=True, help="As in habitat.")
@click.option("--region", required=True, help="The node's region.")
@click.option("--all", "settled", is_flag=True, help="Those that are settled, too.")
@_TOKEN
def dead_letters(
    *, data: pathlib.Path, verb: str, name: str, domain: str, region: str, settled: bool, token: str
) -> None:
    """List events that a domain gave up; read, replay or drop one by its name."""
    from cli import dead_letters, transfer

    client = transfer.Client(data, token)
    if verb == "list":
        dead_letters.listed(client, domain, region, settled=settled)
    elif not name:
        raise click.UsageError(f"{verb} needs the name of a dead letter")
    else:
        dead_letters.act(client, domain, {"read": "Get", "replay": "Replay", "drop": "Drop"}[verb], name)


@main.group()
def audit() -> None:
    """The audit trail."""


@audit.command()
@_DATA
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=_THERE,
    help="Public key in PEM; repeatable. Default: the node's own, trust/audit_key.pem.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(data: pathlib.Path, keys: tuple[pathlib.Path, ...], as_json: bool) -> None:
    """Prove the trail of each domain; name what was altered, removed, reordered or cut off."""
    from cli import audit

    audit.verify(data, keys, as_json=as_json)


@main.group()
def keys() -> None:
    """The keys that personal data is encrypted with."""


@keys.command()
@_DATA
@click.option("--ring", type=click.Choice(["key_ring", "seal_ring"]), default="key_ring", show_default=True)
@click.option(
    "--algorithm", type=click.Choice(["AES-256-GCM", "SM4-GCM"]), default="AES-256-GCM", show_default=True
)
def rotate(data: pathlib.Path, ring: str, algorithm: str) -> None:
    """Add a key and encrypt with it from now on; old values stay readable."""
    from mesh import keys

    path = data / "secrets" / f"{ring}.json"
    if not path.exists():
        raise click.ClickException(f"{path} is missing")
    click.echo(
        f"{ring}: {keys.rotate(path, algorithm)} is current; keep a copy of {path} apart from the data"
    )


@keys.command("re-encrypt")
@_DATA
def re_encrypt(data: pathlib.Path) -> None:
    """Bring what is under older keys under the newest; say what is left. The node may run."""
    from cli import reencrypt

    reencrypt.reencrypt(data)


@keys.command()
@_DATA
@click.option("--ring", type=click.Choice(["key_ring", "seal_ring"]), default="key_ring", show_default=True)
@click.argument("key")
def retire(data: pathlib.Path, ring: str, key: str) -> None:
    """Take an old key, under which nothing is kept any more, out of its ring."""
    from cli import reencrypt

    reencrypt.retire(data, ring, key)


if __name__ == "__main__":
    main()
