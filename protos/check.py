"""`python -m protos.check`: fails when somebody who relies on a release could not rely on today's contract.
docs/evolution.md says what may change, and how something is retired."""

import pathlib
from collections.abc import Iterator

from protos import consumers, evolution, images


def broken(
    today: pathlib.Path = images.TODAY,
    *,
    releases: pathlib.Path = evolution.RELEASES,
    needs: pathlib.Path = evolution.NEEDS,
) -> Iterator[str]:
    """Every break, of every release that counts and of every consumer, but for those that were accepted."""
    now = images.read(today)
    for version, about in evolution.releases(releases).items():
        path = evolution.frozen(version, releases)
        accepted = about.get("accepted") or {}
        for what in [*evolution.buf(path, today), *evolution.annotated(images.read(path), now)]:
            if what not in accepted:
                yield f"{version}: {what}"
    yield from consumers.missed(now, needs, releases)


if __name__ == "__main__":
    found = list(broken())
    for line in found:
        print(line)
    raise SystemExit(f"{len(found)} breaks; docs/evolution.md says what to do" if found else 0)
