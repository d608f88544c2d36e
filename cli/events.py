"""`villagemesh events`: tails or replays a node's events."""

import asyncio
import contextlib
import datetime
import json
import pathlib

from mesh import bus, errors


def events(data: pathlib.Path, subject: str, start: int | datetime.datetime | None, as_json: bool) -> None:
    """Prints events until interrupted: one JSON object a line, or one readable line each."""
    url = json.loads((data / "node.json").read_text())["nats"]

    async def tail() -> None:
        async for event in bus.read(url, subject, start):
            if as_json:
                print(json.dumps(event, ensure_ascii=False), flush=True)
            else:
                print(event["time"], event["nats_subject"], event["subject"], event["sequence"], flush=True)

    try:
        with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
            asyncio.run(tail())
    except errors.NotFound as refusal:
        raise SystemExit(f"villagemesh: {refusal}") from None
