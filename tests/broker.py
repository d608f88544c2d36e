"""A real nats-server for tests: started on a free port, killed, started again on the same data."""

import asyncio
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from typing import Any

from nats.js import errors as js_errors

from mesh import bus, events
from tests.waiting import free_port


class Broker:
    """NATS with JetStream on durable settings."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        store = folder / "jetstream"
        self._config = folder / "nats.conf"
        self._config.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\n'
            f'jetstream {{ store_dir: "{store}", sync_interval: always }}\n'
        )
        self._log = folder / "nats.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        binary = shutil.which("nats-server", path=str(pathlib.Path(sys.executable).parent))
        assert binary is not None
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([binary, "-c", str(self._config)], stdout=log, stderr=log)
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < until, self._log.read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stored(self, domain: str = "habitat") -> list[tuple[str, dict[str, str], bytes]]:
        """Everything the domain's stream holds, in its order; nothing while there is none yet."""
        return asyncio.run(self._stored(domain))

    async def _stored(self, domain: str) -> list[tuple[str, dict[str, str], bytes]]:
        client = await bus.connect(self.url)
        js: Any = client.jetstream()
        try:
            state = (await js.stream_info(events.stream(domain))).state
            found = []
            for number in range(max(state.first_seq, 1), state.last_seq + 1):
                message = await js.get_msg(events.stream(domain), number)
                found.append((message.subject, dict(message.headers or {}), message.data or b""))
            return found
        except js_errors.NotFoundError:
            return []
        finally:
            await client.close()
