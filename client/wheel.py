"""`make wheel`: the wheel that other teams install. It holds what is generated from the protos, with types,
the protos and the descriptor set, and `village_mesh`. The same sources give the same bytes."""

import gzip
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

from protos import generate, images

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = images.ROOT / "packages"
EPOCH = "1767225600"
"""2026-01-01: what the files in the archive say of their age."""


def lay_out(folder: pathlib.Path) -> None:
    """Puts together what the wheel is built from."""
    for part in ("village", "buf"):
        shutil.copytree(
            images.ROOT / "gen" / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(
        HERE / "village_mesh", folder / "village_mesh", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(images.ROOT / "protos/village", folder / "village", dirs_exist_ok=True)
    plugin = pathlib.Path(sys.executable).parent / "protoc-gen-mypy_grpc"
    generate.protoc(folder, f"--plugin=protoc-gen-mypy_grpc={plugin}", "--mypy_grpc_out=quiet:" + str(folder))
    for package in {path.parent for path in folder.rglob("*.py")}:
        (package / "py.typed").touch()
    (folder / "village_mesh/village.binpb").write_bytes(gzip.decompress(images.read().bare()))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(HERE / name, folder)
    declared = tomllib.loads((images.ROOT / "pyproject.toml").read_text())["project"]["version"]
    (folder / "VERSION").write_text(declared)


def build(out: pathlib.Path = PACKAGES) -> pathlib.Path:
    """Builds the wheel into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        lay_out(folder)
        asked = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", asked], cwd=folder, capture_output=True, text=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"villagemesh: the wheel cannot be built\n{done.stderr}")
    return out / done.stdout.splitlines()[-1]


if __name__ == "__main__":
    print(build())
