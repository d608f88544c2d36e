"""`python -m cli.site [FOLDER]`: builds the documents as a site that names no other host, for a
county server without internet: fonts are the reader's own, and Mermaid comes out of npm at build time."""

import pathlib
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".site"
SCRIPTS = {
    "mermaid-12.3.0": ("package/dist/mermaid.min.js", "mermaid.min.js"),
    "iframe-worker-1.0.4": ("package/shim/index.js", "iframe-worker.js"),
}
"""Package and version at npm → the file wanted of it, and its name here. The first draws, the second lets the
search run where the pages are opened as files."""


def build(folder: pathlib.Path) -> pathlib.Path:
    """Builds in that folder; where the pages are. CalledProcessError when a page names what is not there."""
    pages, html = folder / "pages", folder / "html"
    for stale in (pages, html):
        shutil.rmtree(stale, ignore_errors=True)
    for pattern in (
        "*.md",
        "LICENSE",
        "docs/**/*.md",
        "docs/subscribers/*.*",
        "docs/clients/*.*",
        "deploy/**/*.md",
    ):
        for path in ROOT.glob(pattern):  # laid out as in the checkout, so that links hold
            _copy(path, pages / path.relative_to(ROOT))
    shutil.copytree(ROOT / "docs/theme", folder / "theme", dirs_exist_ok=True)
    _copy(ROOT / "docs/zensical.toml", folder / "zensical.toml")
    _scripts(pages / "assets")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=folder, check=True)
    for name in ("search.json", "search.js"):  # the theme searches in one language, ours has two
        index = html / name
        index.write_text(index.read_text().replace('"lang":["en"]', '"lang":["en","zh"]', 1))
    return html


def _copy(path: pathlib.Path, to: pathlib.Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _scripts(to: pathlib.Path) -> None:
    """Fetches the scripts, once for each version and checkout."""
    packages = FOLDER / "npm"
    packages.mkdir(parents=True, exist_ok=True)
    to.mkdir(parents=True, exist_ok=True)
    for package, (member, name) in SCRIPTS.items():
        packed = packages / f"{package}.tgz"
        if not packed.exists():
            wanted = "@".join(package.rsplit("-", 1))
            subprocess.run(["npm", "pack", "--silent", wanted], cwd=packages, check=True, timeout=300)
        with tarfile.open(packed) as found:
            script = found.extractfile(member)
            assert script is not None
            (to / name).write_bytes(script.read())


if __name__ == "__main__":
    print(build(pathlib.Path(sys.argv[1]).absolute() if sys.argv[1:] else FOLDER) / "index.html")
