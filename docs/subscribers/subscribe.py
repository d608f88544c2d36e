"""Prints every step of every report of a county: python subscribe.py NATS_URL"""

import asyncio, sys
import nats
from village.habitat.v1 import events_pb2


async def main(url):
    client = await nats.connect(url)
    async for message in (await client.subscribe("village.36.04.23.habitat.report.*")).messages:
        kind = message.headers["ce-type"].rpartition(".")[2]  # ReportFiled, ReportAccepted …
        event = getattr(events_pb2, kind).FromString(message.data)
        print(message.headers["ce-id"], kind, event.report.name, event.step.to_state, flush=True)


asyncio.run(main(sys.argv[1]))
