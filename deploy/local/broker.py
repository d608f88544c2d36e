"""The configuration of a node's broker, nats-server: what it keeps, and who may do what on it. Separate,
because the two users' permissions are what keeps a subscriber from forging events."""

import json
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

ENVIRONMENT = {"GOMEMLIMIT": "128MiB"}
"""Lets Go collect sooner; a county's box is small."""

_SUBSCRIBE = ["village.>", "_INBOX.>"]


def users(passwords: Mapping[str, str], domains: Sequence[str], before: str = "") -> str:
    """The text of users.conf: this node's own users, and those of `before`, the file as it was, that are
    the lines of other nodes, and of devices. Separate from the rest, because it changes while the broker
    runs."""
    service = {
        "publish": ["village.>", "readings.>", "$JS.API.>", "$JS.ACK.>", "_INBOX.>"],
        "subscribe": [*_SUBSCRIBE, "$MQTT.sub.>"],
    }
    subscriber = {"publish": _reading(domains), "subscribe": _SUBSCRIBE}
    own = [
        {"user": "service", "password": passwords["service"], "permissions": service},
        {"user": "subscriber", "password": passwords["subscriber"], "permissions": subscriber},
    ]
    known = json.loads(before)["users"] if before else []
    lines = [u for u in known if u["user"].startswith("node-") or u.get("allowed_connection_types")]
    return json.dumps({"users": [*own, *lines]}, indent=1)


def device(number: str, password: str, region: str) -> dict[str, Any]:
    """The user of a station that reports by MQTT: it publishes its own readings, and hears what became of
    them, and nothing else."""
    topic = f"readings.{region}.{number}"
    return {
        "user": number, "password": password, "allowed_connection_types": ["MQTT"],
        "permissions": {
            "publish": [topic], "subscribe": [f"{topic}.answer", "$MQTT.sub.>", "$MQTT.deliver.>"],
        },
    }  # fmt: skip


def configuration(
    *,
    server_name: str,
    port: int,
    store: str,
    passwords: Mapping[str, str],
    users_file: str,
    leaves: int = 0,
    line: str = "",
    mqtt: str = "",
) -> str:
    """The text of nats.conf. It holds passwords. JSON is a part of that format, except for the escapes of
    JSON: what goes in is ASCII, and `store` is seen from the node's directory, whatever its name. `leaves`:
    the port where lines of other nodes end, behind the gateway; `line`: the URL of this node's own; `mqtt`:
    where devices report, HOST:PORT."""
    content: dict[str, Any] = {
        "server_name": server_name,
        "host": "127.0.0.1",
        "port": port,
        "max_payload": 1048576,
        # a line that hangs is given up after two that were not answered
        "ping_interval": "5s",
        "jetstream": {
            "store_dir": store,
            "domain": server_name,
            # By default acknowledged messages reach the disk up to two minutes later.
            "sync_interval": "always",
            "max_memory_store": 64 * 1024 * 1024,
            "max_file_store": 10 * 1024 * 1024 * 1024,
        },
        "system_account": "SYSTEM",
        "accounts": {"SYSTEM": {"users": [{"user": "system", "password": passwords["system"]}]}},
    }
    if leaves:
        content["websocket"] = {"host": "127.0.0.1", "port": leaves, "no_tls": True, "compression": True}
        # nodes come by WebSocket; without a port of its own the broker takes no lines at all
        content["leafnodes"] = {"host": "127.0.0.1", "port": -1, "no_advertise": True}
    if line:
        remote = {"url": line, "ws_compression": True, "first_info_timeout": "10s"}
        content["leafnodes"] = {"reconnect": "1s", "no_advertise": True, "remotes": [remote]}
    if mqtt:
        host, _, at = mqtt.rpartition(":")
        content["mqtt"] = {"host": host, "port": int(at), "reject_qos2_publish": True}
    text = json.dumps(content, indent=1)
    return f'{text[:-2]},\n "authorization" {{ include "{users_file}" }}\n}}\n'


def command(configuration_file: str) -> list[str]:
    """How to start the broker, from the node's directory."""
    return [binary(), "--config", configuration_file]


def binary() -> str:
    """Path of nats-server: the wheel's, beside Python, else the one on the PATH."""
    beside = pathlib.Path(sys.executable).parent / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server") or "nats-server"


def _reading(domains: Sequence[str]) -> list[str]:
    """The subjects that are needed to read the streams and nothing else: no event, no deletion."""
    api = "$JS.API"
    per_stream = [
        f"{api}.STREAM.INFO.{{}}",
        f"{api}.CONSUMER.CREATE.{{}}",
        f"{api}.CONSUMER.CREATE.{{}}.>",
        f"{api}.CONSUMER.INFO.{{}}.>",
        f"{api}.CONSUMER.MSG.NEXT.{{}}.>",
        "$JS.ACK.{}.>",
        "$JS.FC.{}.>",
    ]
    return [
        *(f"{api}.INFO", f"{api}.STREAM.NAMES", f"{api}.STREAM.LIST"),
        *(subject.format(f"EV_{domain}") for domain in domains for subject in per_stream),
    ]
