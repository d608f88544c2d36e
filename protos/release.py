"""`make release VERSION=x.y.z`: freezes today's contract, so that from then on nobody who relies on it is
broken unnoticed. It writes three things under releases/: the image, an example of every event, the date."""

import datetime
import gzip
import pathlib
import re
import subprocess
import sys
import tomllib

import yaml

from protos import evolution, images, samples


def examples(version: str, folder: pathlib.Path = evolution.RELEASES) -> pathlib.Path:
    """Where the examples of a release's events are."""
    return folder / f"{version}.events.json.gz"


def refusal(version: str, root: pathlib.Path) -> str:
    """Why a version cannot be frozen in a checkout, or empty."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return f"{version!r} is not a version as in 1.2.3"
    folder = root / "protos/releases"
    frozen = yaml.safe_load((folder / "releases.yaml").read_text()) or {}
    if version in frozen or evolution.frozen(version, folder).exists():
        return f"{version} is frozen already; what was released stays"
    last = max(frozen, key=_order, default="")
    if last and _order(version) <= _order(last):
        return f"{version} is not newer than {last}"
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if declared != version:
        return f"pyproject.toml says version {declared}; say {version} there first"
    if subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, check=True).stdout:
        return "the checkout has changes that are not committed"
    return ""


def freeze(version: str, root: pathlib.Path, today: datetime.date) -> None:
    """Writes the release."""
    folder, image = root / "protos/releases", images.read(root / "gen/village.binpb")
    evolution.frozen(version, folder).write_bytes(image.bare())
    examples(version, folder).write_bytes(gzip.compress(samples.events(image).encode(), mtime=0))
    with (folder / "releases.yaml").open("a") as table:
        table.write(f'"{version}":\n  frozen: {today}\n')


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    asked = (sys.argv[1:] or [""])[0]
    if why := refusal(asked, images.ROOT):
        raise SystemExit(f"villagemesh: {why}")
    freeze(asked, images.ROOT, datetime.datetime.now(datetime.UTC).date())
    print(f"{asked} is frozen under protos/releases; commit that, and tag the commit v{asked}")
