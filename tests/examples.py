"""`make examples`: picks the examples of the OpenAPI and AsyncAPI documents from what the journeys sent and
were answered. `python -m tests.examples FOLDER`, where FOLDER is what VILLAGEMESH_EXAMPLES was."""

import json
import pathlib
import sys
from typing import Any

from tests.through import EXAMPLES, settled

LONGEST = 6_000
"""Characters of an example that are still pleasant to read."""


def main(folder: pathlib.Path) -> None:
    found: dict[str, Any] = {}
    events: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        told = json.loads(path.read_text())
        for method, seen in told["seen"].items():
            for example in map(settled, seen):
                if method not in found or merit(example) > merit(found[method]):
                    found[method] = {"test": told["test"], **example}
        for kind, event in told["events"].items():
            events.setdefault(kind, {"test": told["test"], **settled(event)})
    chosen = {**dict(sorted(found.items())), "events": dict(sorted(events.items()))}
    EXAMPLES.write_text(json.dumps(chosen, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    print(f"{len(found)} methods, {len(events)} events")


def merit(example: dict[str, Any]) -> tuple[bool, int, int]:
    """Readable first, then the one that says most in its request, then the one with the most in its
    answer."""
    sent = {**example.get("query", {}), **example.get("body", {})}
    length = len(json.dumps(example["answer"]))
    return length <= LONGEST, len(sent), min(length, LONGEST)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
