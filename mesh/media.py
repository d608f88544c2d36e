"""What kind of file bytes are, and files without what they tell of place, camera and author. Pure, and
separate from `attachments`, which keeps them: what a file is called or said to be is never believed."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from mesh import errors

MIB = 1024 * 1024
LIMITS = {
    "image/jpeg": 20 * MIB, "image/png": 20 * MIB, "image/webp": 20 * MIB, "application/pdf": 50 * MIB,
    "audio/mpeg": 50 * MIB, "audio/mp4": 50 * MIB, "video/mp4": 200 * MIB,
}  # fmt: skip
"""The kinds that are kept, each with its largest size in bytes."""
ORIENTATION = 0x0112


class UnsupportedContent(errors.Refused):
    """The bytes are of no kind that is kept."""

    en = "the content is none of: " + ", ".join(LIMITS)
    zh = "不支持的文件类型"


class DamagedContent(errors.Refused):
    """The bytes begin like a kind that is kept, and break off or contradict themselves."""

    en = "the content begins like {media_type} and is damaged"
    zh = "文件已损坏"


class TooLarge(errors.Refused):
    """The file is larger than its kind may be."""

    en = "the content is larger than the {most} bytes that {media_type} may have"
    zh = "文件过大"


def kind(start: bytes) -> str:
    """The media type by the first bytes (16 are enough); UnsupportedContent."""
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start.startswith(b"%PDF-"):
        return "application/pdf"
    if start[4:8] == b"ftyp":
        return "audio/mp4" if start[8:11] in (b"M4A", b"M4B") else "video/mp4"
    if start.startswith(b"ID3") or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2):
        return "audio/mpeg"
    raise UnsupportedContent


def cleaned(media_type: str, file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes without metadata: EXIF, XMP and comments of photos, but for which way up they are;
    user data of MP4; ID3 of MP3. DamagedContent."""
    clean = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp, "audio/mpeg": _mp3}
    try:
        if media_type in clean:
            yield from clean[media_type](file.read())
        else:
            if media_type.endswith("/mp4"):
                _blank_user_data(file)
            yield from iter(lambda: file.read(MIB), b"")
    except (struct.error, IndexError, ValueError) as fault:
        raise DamagedContent(media_type=media_type) from fault


def _jpeg(raw: bytes) -> Iterator[bytes]:
    yield raw[:2]
    at = 2
    while True:
        marker, size = raw[at + 1], struct.unpack_from(">H", raw, at + 2)[0]
        if raw[at] != 0xFF or size < 2 or at + 2 + size > len(raw):
            raise ValueError("a segment breaks off")
        segment = raw[at : at + 2 + size]
        if marker == 0xDA:  # the picture itself, to the end
            yield raw[at:]
            return
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            if turned := _orientation(segment[10:]):
                yield _exif(turned)
        elif marker in (0xE0, 0xE2, 0xEE) or (not 0xE0 <= marker <= 0xEF and marker != 0xFE):
            yield segment  # JFIF, colour profile, Adobe, and what is no application's
        at += 2 + size


def _orientation(tiff: bytes) -> int:
    """Which way up a photo is, by its EXIF; 0 when that says nothing."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        at = struct.unpack_from(order + "I", tiff, 4)[0]
        for n in range(struct.unpack_from(order + "H", tiff, at)[0]):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * n)
            if tag == ORIENTATION:
                return int(value) if 1 < value <= 8 else 0
    except (KeyError, struct.error):
        pass
    return 0


def _exif(orientation: int) -> bytes:
    """An EXIF segment that says which way up a photo is and nothing else."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(tiff)) + b"Exif\0\0" + tiff


def _png(raw: bytes) -> Iterator[bytes]:
    yield raw[:8]
    at, ended = 8, False
    while not ended:
        size, name = struct.unpack_from(">I4s", raw, at)
        if at + 12 + size > len(raw):
            raise ValueError("a chunk breaks off")
        if name not in (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            yield raw[at : at + 12 + size]
        at, ended = at + 12 + size, name == b"IEND"


def _webp(raw: bytes) -> Iterator[bytes]:
    parts, at = [], 12
    while at < len(raw):
        name, size = struct.unpack_from("<4sI", raw, at)
        end = at + 8 + size + size % 2
        if at + 8 + size > len(raw):
            raise ValueError("a chunk breaks off")
        if name == b"VP8X":  # its flags for EXIF and XMP
            parts.append(raw[at : at + 8] + bytes([raw[at + 8] & ~0x0C]) + raw[at + 9 : end])
        elif name not in (b"EXIF", b"XMP "):
            parts.append(raw[at:end])
        at = end
    body = b"".join(parts)
    yield b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _mp3(raw: bytes) -> Iterator[bytes]:
    start = 0
    if raw.startswith(b"ID3"):
        size = (raw[6] & 127) << 21 | (raw[7] & 127) << 14 | (raw[8] & 127) << 7 | raw[9] & 127
        start = 10 + size + (10 if raw[5] & 0x10 else 0)
    end = len(raw) - 128 if raw[-128:-125] == b"TAG" else len(raw)
    if start >= end:
        raise ValueError("nothing but tags")
    yield raw[start:end]


def _blank_user_data(file: BinaryIO) -> None:
    """Overwrites the `udta` and `meta` boxes of an MP4, in place, with `free` boxes of the same size."""
    file.seek(0, 2)
    _blank_boxes(file, 0, file.tell())
    file.seek(0)


def _blank_boxes(file: BinaryIO, at: int, end: int) -> None:
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        size = size or end - at
        if size < header or at + size > end:
            raise ValueError("a box breaks off")
        if name in (b"udta", b"meta"):
            file.seek(at + 4)
            file.write(b"free")
            file.seek(at + header)
            for left in range(size - header, 0, -MIB):
                file.write(bytes(min(left, MIB)))
        elif name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            _blank_boxes(file, at + header, at + size)
        at += size
