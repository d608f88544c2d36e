"""Keeps a ledger of reports in SQLite, each step in it once: python ledger.py NATS_URL LEDGER.db"""

import asyncio
import sqlite3
import sys

import village_mesh


def enter(event: village_mesh.Event, cursor: sqlite3.Cursor) -> None:
    """What an event leads to. It is committed together with the note that it was acted on."""
    row = (event.type.rpartition(".")[2], event.subject, event.time.isoformat())
    cursor.execute("INSERT INTO ledger VALUES (?, ?, ?)", row)


def main(url: str, path: str) -> None:
    ledger = sqlite3.connect(path)
    ledger.execute("CREATE TABLE IF NOT EXISTS ledger (what TEXT, name TEXT, time TEXT)")
    inbox = village_mesh.Inbox(ledger, "township-ledger")
    asyncio.run(village_mesh.follow(url, inbox, enter, subject="village.36.04.23.habitat.report.*"))


if __name__ == "__main__":
    main(*sys.argv[1:])
