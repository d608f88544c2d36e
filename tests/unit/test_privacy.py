"""Masks, encryption bound to its place, sealed references (domain reference C4)."""

import base64
import concurrent.futures
import json
import os
import pathlib
import threading
from typing import Any

import pytest

from mesh import contract, privacy, resources
from village.habitat.v1.report_pb2 import Report
from village.options.v1 import options_pb2


def key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    found = tmp_path / "ring.json"
    found.write_text(json.dumps({"current": "k1", "keys": {"k1": key()}, "index_key": key()}))
    return found


class TestMask:
    @pytest.mark.parametrize(
        ("name", "shown"), [("张三", "张*"), ("欧阳娜", "欧*娜"), ("欧阳娜娜", "欧**娜"), ("", "")]
    )
    def test_keeps_the_ends_of_a_name(self, name: str, shown: str) -> None:
        assert privacy.mask_name(name) == shown

    @pytest.mark.parametrize(
        ("phone", "shown"),
        [("13812348000", "138****8000"), ("+8613812348000", "138****8000"), ("0792-2771234", "079****1234")],
    )
    def test_keeps_three_and_four_digits_of_a_number(self, phone: str, shown: str) -> None:
        assert privacy.mask_phone(phone) == shown

    def test_twice_is_once(self) -> None:
        assert privacy.mask_phone(privacy.mask_phone("13812348000")) == "138****8000"
        assert privacy.mask_name(privacy.mask_name("欧阳娜娜")) == "欧**娜"


class TestRisen:
    MESSAGE = Report(description="x", feedback="y", contact={"person_name": "张三", "phone": "13812348000"})

    def test_masks_and_leaves_free_text_out(self) -> None:
        of = resources.shape_of(self.MESSAGE)
        risen: Any = privacy.risen(self.MESSAGE, of, options_pb2.RISES_MASKED)
        assert (risen.description, risen.feedback, risen.contact.person_name) == ("", "", "张*")
        full: Any = privacy.risen(self.MESSAGE, of, options_pb2.RISES_FULL)
        assert (full.description, full.contact.phone) == ("x", "138****8000")
        assert self.MESSAGE.contact.person_name == "张三"


class TestTouches:
    def test_is_true_for_all_who_ask_at_once(self) -> None:
        """Whoever asks while another works it out must not be told that nothing is personal."""
        asked: list[concurrent.futures.Future[bool]] = []
        real = resources.shape_of(Report())

        class Slow(tuple):  # type: ignore[type-arg]
            def __iter__(self) -> Any:
                if not asked:
                    asked.append(pool.submit(privacy.touches, shape))
                    concurrent.futures.wait(asked, timeout=0.2)
                return super().__iter__()

        name = f"test.{threading.get_ident()}.{os.urandom(4).hex()}"
        shape = contract.Shape(name, Slow(real.fields))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert privacy.touches(shape)
            assert asked[0].result(5)


class TestKeyRing:
    def test_opens_what_it_closed_and_only_in_its_place(self, path: pathlib.Path) -> None:
        ring = privacy.load(path)
        sealed = ring.encrypt("张三", "a/name")
        assert ring.decrypt(sealed, "a/name") == "张三"
        assert ring.encrypt("张三", "a/name") != sealed
        for value, context in ((sealed, "b/name"), (sealed[:-4] + "AAA=", "a/name"), ("k9:AAAA", "a/name")):
            with pytest.raises(ValueError, match=r"open|no key"):
                ring.decrypt(value, context)
        assert ring.encrypt("", "x") == ring.decrypt("", "x") == ""

    def test_opens_old_values_after_a_new_key(self, path: pathlib.Path) -> None:
        sealed = privacy.load(path).encrypt("x", "c")
        found = json.loads(path.read_text())
        found["keys"]["k2"], found["current"] = key(), "k2"
        path.write_text(json.dumps(found))
        ring = privacy.load(path)
        assert ring.decrypt(sealed, "c") == "x"
        assert ring.encrypt("x", "c").startswith("k2:")

    def test_gives_references_that_differ_by_region_and_domain(self, path: pathlib.Path) -> None:
        ring = privacy.load(path)
        places = [("360423", "habitat"), ("360424", "habitat"), ("360423", "culture")]
        found = {ring.index("somebody", region=r, domain=d) for r, d in places}
        assert len(found) == 3
        assert ring.index("somebody", region="360423", domain="habitat") in found

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"current": "k1", "keys": {}, "index_key": ""}'])
    def test_stops_the_process_when_it_cannot_be_used(self, tmp_path: pathlib.Path, text: str) -> None:
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(privacy.BadKeyRing, match=r"bad\.json"):
            privacy.load(bad)
