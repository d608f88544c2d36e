"""Writes `gen/`: Python for the messages, and the one descriptor set that Envoy, reflection, lint and
the plumbing read; and from that the documents for integrators. Separate from the Makefile because the protos
that ours import come out of wheels: Google's as files, protovalidate's only as a descriptor."""

import os
import pathlib
import shutil
import subprocess
import sys

import google.api
import grpc_tools
from google.protobuf import descriptor_pb2
from protovalidate._gen.buf.validate import validate_pb

ROOT = pathlib.Path(__file__).resolve().parent.parent
VALIDATE = "buf/validate/validate.proto"


def validate_descriptor() -> bytes:
    """The descriptor set of protovalidate's own file."""
    validate = descriptor_pb2.FileDescriptorSet()
    validate.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    return validate.SerializeToString()


def protoc(out: pathlib.Path, *options: str) -> None:
    """Compiles ours, and protovalidate's, as the options say."""
    imported = out / "imported.binpb"
    imported.write_bytes(validate_descriptor())
    sources = sorted(str(p.relative_to(ROOT / "protos")) for p in (ROOT / "protos").rglob("*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            f"--descriptor_set_in={imported}",
            f"-I{ROOT / 'protos'}",
            f"-I{pathlib.Path(google.api.__path__[0]).parent.parent}",
            f"-I{pathlib.Path(grpc_tools.__path__[0]) / '_proto'}",
            *options,
            *sources,
            *(VALIDATE, "google/rpc/error_details.proto"),
        ],
        check=True,
    )
    shutil.rmtree(out / "google", ignore_errors=True)  # the wheels bring their own
    imported.unlink()


def main() -> None:
    out = ROOT / "gen"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    protoc(
        out,
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        f"--descriptor_set_out={out / 'village.binpb'}",
        *("--include_imports", "--include_source_info"),
    )
    found = {**os.environ, "PYTHONPATH": f"{ROOT}:{out}"}
    subprocess.run([sys.executable, "-m", "gateway.contracts"], check=True, cwd=ROOT, env=found)


if __name__ == "__main__":
    main()
