"""`python -m cli.revise DOMAIN TITLE`: writes the migration that brings a domain's committed schema to
what its messages derive."""

import pathlib
import subprocess
import sys
import tempfile

from cli.serve import service
from mesh import database, migrations, store

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main(domain: str, title: str) -> None:
    found = service(domain)
    if found.migrations is None:
        raise SystemExit(f"villagemesh: {domain} keeps nothing")
    with tempfile.TemporaryDirectory() as folder:
        opened = database.Database(f"sqlite:///{pathlib.Path(folder) / 'revise.db'}", threads=1)
        metadata = store.schema(found.resources, found.series).metadata
        written = migrations.generate(opened, metadata, found.migrations, title)
    format_ = ("format", "--quiet", "--config", ROOT / "pyproject.toml")
    subprocess.run([sys.executable, "-m", "ruff", *format_, written], check=True)
    print(written)


if __name__ == "__main__":
    main(*sys.argv[1:])
