"""Files in an S3-compatible store: kept, read in parts, deleted, and what is answered while it is away."""

import hashlib
import pathlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from mesh import attachments, errors
from tests.county import County
from tests.integration.test_report_files import MP4, box, download, upload
from tests.loop import file
from tests.waiting import free_port, until

LARGE = MP4 + box(b"mdat", b"0123456789abcdef" * (12 * 2**16))
"""More than two parts of an upload in parts."""


class Server:
    """An S3-compatible server with one bucket."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        words = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", port]
        with (folder / "s3.log").open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until(self._bucket, 60)

    def _bucket(self) -> bool:
        request = urllib.request.Request(f"{self.url}/village", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.stop()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_keeps_files_and_says_when_it_is_away(
    county: County, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"ENDPOINT_URL": server.url, "REGION": "us-east-1"}
    for name, value in {**named, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    county.store.files = attachments.Files("s3://village/360423")
    kept = upload(county, LARGE[:100], LARGE[100:])
    small = upload(county, MP4)
    name = file(county, photos=[kept]).name
    content = download(county, "resident", name, kept.sha256)
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (kept.sha256, kept.size_bytes)
    assert kept.size_bytes > 10 * 2**20

    county.pass_time(hours=25)
    attachments.collect(county.store, county.now)
    assert b"".join(county.store.files.read(kept.sha256)) == content
    with pytest.raises(FileNotFoundError):
        list(county.store.files.read(small.sha256))

    server.stop()
    with pytest.raises(errors.Unavailable):
        upload(county, MP4)
    with pytest.raises(errors.Unavailable):
        download(county, "resident", name, kept.sha256)
