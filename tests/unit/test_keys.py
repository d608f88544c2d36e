"""Key rings: encryption bound to its place, rotation while running, two algorithms, keyed digests."""

import base64
import json
import os
import pathlib

import pytest

from mesh import keys


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "ring.json"
    index_key = base64.b64encode(os.urandom(32)).decode()
    ring = {"current": "k1", "keys": {"k1": keys.new_key()}, "index_key": index_key}
    found.write_text(json.dumps(ring))
    return found


@pytest.mark.parametrize("algorithm", list(keys.ALGORITHMS))
def test_opens_what_it_closed_and_only_in_its_place(path: pathlib.Path, algorithm: str) -> None:
    keys.rotate(path, algorithm)
    ring = keys.KeyRing(path)
    sealed = ring.encrypt("张三", "a/name")
    assert ring.decrypt(sealed, "a/name") == "张三"
    assert ring.encrypt("张三", "a/name") != sealed
    for value, context in ((sealed, "b/name"), (sealed[:-4] + "AAA=", "a/name"), ("k9:AAAA", "a/name")):
        with pytest.raises(ValueError, match=r"open|no key"):
            ring.decrypt(value, context)
    assert ring.encrypt("", "x") == ring.decrypt("", "x") == ""


def test_of_sm4_agrees_with_the_standard_block() -> None:
    """GB/T 32907-2016, example 1: the cipher under the mode is the standard's."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    block = bytes.fromhex("0123456789abcdeffedcba9876543210")
    sealing = Cipher(algorithms.SM4(block), modes.ECB()).encryptor()
    assert sealing.update(block).hex() == "681edf34d206965e86b3e94f536e4246"


def test_takes_up_a_new_key_while_it_runs_and_opens_old_values(path: pathlib.Path) -> None:
    running, other = keys.KeyRing(path), keys.KeyRing(path)
    sealed = running.encrypt("x", "c")
    assert keys.rotate(path) == "k2"
    running.refresh()
    fresh = running.encrypt("x", "c")
    assert fresh.startswith("k2:")
    assert running.decrypt(sealed, "c") == "x"
    assert other.decrypt(fresh, "c") == "x", "a key that another process took up first"


def test_keeps_what_it_has_while_the_file_cannot_be_read(path: pathlib.Path) -> None:
    ring = keys.KeyRing(path)
    sealed = ring.encrypt("x", "c")
    path.write_text("{")
    ring.refresh()
    assert ring.decrypt(sealed, "c") == "x"


def test_gives_references_that_differ_by_region_and_domain(path: pathlib.Path) -> None:
    ring = keys.KeyRing(path)
    places = [("360423", "habitat"), ("360424", "habitat"), ("360423", "culture")]
    found = {ring.index("somebody", region=r, domain=d) for r, d in places}
    assert len(found) == 3
    assert ring.index("somebody", region="360423", domain="habitat") in found


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"current": "k1", "keys": {}, "index_key": ""}'])
def test_stops_the_process_when_it_cannot_be_used(tmp_path: pathlib.Path, text: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    with pytest.raises(keys.BadKeyRing, match=r"bad\.json"):
        keys.KeyRing(bad)
