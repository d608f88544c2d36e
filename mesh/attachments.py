"""Files that records refer to (附件): kept by the digest of their content in a folder or an S3-compatible
store, streamed both ways, deleted a day after nothing refers to them. Separate from records, which hold
digests only."""

import contextlib
import datetime
import functools
import hashlib
import pathlib
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from google.api import httpbody_pb2
from google.protobuf.message import Message

from mesh import contract, errors, media, resources, tables
from mesh.store import Store
from village.type.v1 import attachment_pb2

ATTACHMENT = attachment_pb2.Attachment.DESCRIPTOR.full_name
KEPT = datetime.timedelta(days=1)
IN_MEMORY = 4 * media.MIB
PART = 256 * 1024
COLLECTED = 500
REMEMBERED = 10_000
CLIENT = {"connect_timeout": "5s", "read_timeout": "10s", "timeout": "1h", "allow_http": True}
RETRIES = {"max_retries": 2, "retry_timeout": datetime.timedelta(seconds=10)}
"""Of an S3-compatible store: whoever waits is told soon that it is away, and a slow reader may take his time.
Its URL says whether it is asked by HTTPS."""


def referred(message: Any, of: contract.Shape) -> dict[str, tuple[str, Any]]:
    """The files that a message refers to: digest → name of the field, and what it says of the file."""
    found: dict[str, tuple[str, Any]] = {}
    for field in of.fields:
        if field.message is not None and field.message.full_name == ATTACHMENT:
            parts = getattr(message, field.name) if field.repeated else [getattr(message, field.name)]
            found.update({part.sha256: (field.name, part) for part in parts if part.sha256})
    return found


def trouble(store: Store, said: Any) -> str:
    """What is wrong with what a record says of a file, or empty. What was kept once is remembered: its
    content never changes, and the commit itself refuses a file that is gone."""
    kept = store.kept_files.get(said.sha256)
    if kept is None:
        kept = store.lookup(store.plumbing.attachment, sha256=said.sha256)
        if len(store.kept_files) >= REMEMBERED:
            store.kept_files.clear()
        if kept is not None:
            store.kept_files[said.sha256] = kept
    if kept is None:
        return f"{said.sha256} was not uploaded, or was deleted because nothing referred to it"
    if (kept["media_type"], kept["size_bytes"]) != (said.media_type, said.size_bytes):
        return f"{said.sha256} is {kept['media_type']} of {kept['size_bytes']} bytes"
    return ""


class Files:
    """Where the bytes are: `obstore` over a URL, as in `file:///var/lib/village` or `s3://bucket/prefix`
    with the usual variables of AWS. Opened when first needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: Any = None

    @contextlib.contextmanager
    def _store(self) -> Iterator[Any]:
        """OSError when it is away, as of a folder."""
        from obstore.exceptions import BaseError

        try:
            if self._opened is None:
                self._opened = self._open()
            yield self._opened
        except BaseError as fault:
            raise OSError(str(fault).partition("\n")[0]) from fault

    def _open(self) -> Any:
        from obstore.store import from_url

        if self._url.startswith("file://"):
            pathlib.Path(self._url.removeprefix("file://")).mkdir(parents=True, exist_ok=True, mode=0o700)
            return from_url(self._url)
        return from_url(self._url, client_options=CLIENT, retry_config=RETRIES)  # type: ignore[call-overload]

    def put(self, digest: str, file: Any) -> None:
        import obstore

        with self._store() as opened:
            obstore.put(opened, _path(digest), file, max_concurrency=1)  # parts of 5 MiB in memory

    def read(self, digest: str) -> Iterator[bytes]:
        """The content, part by part. FileNotFoundError."""
        import obstore

        with self._store() as opened:
            for part in obstore.get(opened, _path(digest)).stream(min_chunk_size=PART):
                yield bytes(part)

    def delete(self, digest: str) -> None:
        import obstore

        with self._store() as opened, contextlib.suppress(FileNotFoundError):
            obstore.delete(opened, _path(digest))


def _path(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def keep(store: Store, parts: Iterable[bytes], now: datetime.datetime) -> attachment_pb2.Attachment:
    """Keeps a file, cleaned of what it tells beside its content. Keeping it again changes nothing but from
    when its day counts."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as raw, tempfile.SpooledTemporaryFile(IN_MEMORY) as clean:
        media_type = _receive(parts, raw)
        raw.seek(0)
        sha, size = hashlib.sha256(), 0
        for part in media.cleaned(media_type, raw):  # type: ignore[arg-type]
            sha.update(part)
            size += len(part)
            clean.write(part)
        clean.seek(0)
        digest = sha.hexdigest()
        row = {"sha256": digest, "media_type": media_type, "size_bytes": size,
               "upload_time": store.instant(now)}  # fmt: skip
        store.replace(store.plumbing.attachment, row, key="sha256")  # first: it waits for a deletion
        try:
            store.files.put(digest, clean)
        except OSError as fault:
            raise errors.Unavailable(what="the attachment store") from fault
    return attachment_pb2.Attachment(sha256=digest, media_type=media_type, size_bytes=size)


def _receive(parts: Iterable[bytes], into: Any) -> str:
    """Writes the parts down; the media type of the whole."""
    start, size, media_type, most = b"", 0, "", max(media.LIMITS.values())
    for part in parts:
        size += len(part)
        if not media_type:
            start += part[:64]
            if len(start) >= 16:
                media_type = media.kind(start)
                most = media.LIMITS[media_type]
        if size > most:
            raise media.TooLarge(most=str(most), media_type=media_type or "the largest")
        into.write(part)
    return media_type or media.kind(start)


def collect(store: Store, now: datetime.datetime) -> int:
    """Deletes files that have had no reference for a day; how many. Whoever refers to one at that moment
    is refused, because the reference needs the row."""
    attachment, attached = store.plumbing.attachment, store.plumbing.attached
    unused = (
        sa.select(attachment.c.sha256)
        .where(attachment.c.upload_time < store.instant(now - KEPT))
        .where(~sa.exists().where(attached.c.sha256 == attachment.c.sha256))
        .limit(COLLECTED)
    )
    before = sa.bindparam("before", type_=tables.INSTANT)
    drop = store.database.prepare(
        "drop attachment",
        lambda: (
            sa.delete(attachment)
            .where(attachment.c.sha256 == sa.bindparam("sha256", type_=tables.TEXT))
            .where(attachment.c.upload_time < before)
            .where(~sa.exists().where(attached.c.sha256 == attachment.c.sha256))
        ),
    )

    def remove(cursor: Any, digest: str) -> int:
        values = {"sha256": digest, "before": store.instant(now - KEPT)}
        gone = int(store.database.run(cursor, drop, values).rowcount)
        if gone:  # while the row is held, so that nobody keeps it again in between
            store.files.delete(digest)
        return gone

    found = store.database.select(unused)
    return sum(store.database.transact(functools.partial(remove, digest=digest)) for (digest,) in found)


# handlers


def upload_attachment(requests: Iterator[Any], call: Any) -> attachment_pb2.Attachment:
    """Keeps what is streamed up."""
    return keep(call.store, (request.content.data for request in requests), call.now)


def download(message: Message, fields: tuple[str, ...], sha256: str, call: Any) -> Iterator[Any]:
    """The content of a file that a loaded record refers to in one of `fields`. NotFound when it does not."""
    of = resources.shape_of(message)
    for field in fields:
        value = getattr(message, field)
        for part in value if of.field(field).repeated else [value]:
            if part.sha256 == sha256:
                return _stream(call.store, part)
    raise errors.NotFound(name=f"{message.name}/attachments/{sha256}")  # type: ignore[attr-defined]


def _stream(store: Store, attachment: Any) -> Iterator[Any]:
    try:
        for part in store.files.read(attachment.sha256):
            yield httpbody_pb2.HttpBody(content_type=attachment.media_type, data=part)
    except FileNotFoundError as fault:
        raise errors.NotFound(name=f"attachments/{attachment.sha256}") from fault
    except OSError as fault:
        raise errors.Unavailable(what="the attachment store") from fault


HANDLERS = {"UploadAttachment": upload_attachment}
