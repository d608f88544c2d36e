"""Masks, encryption bound to its place, sealed references (domain reference C4)."""

import concurrent.futures
import os
import threading
from typing import Any

import pytest

from mesh import contract, privacy, resources
from village.habitat.v1.report_pb2 import Report
from village.options.v1 import options_pb2


class TestMask:
    @pytest.mark.parametrize(
        ("name", "shown"), [("张三", "张*"), ("欧阳娜", "欧*娜"), ("欧阳娜娜", "欧**娜"), ("", "")]
    )
    def test_keeps_the_ends_of_a_name(self, name: str, shown: str) -> None:
        assert privacy.mask_name(name) == shown

    @pytest.mark.parametrize(
        ("hide", "text", "shown"),
        [
            (privacy.mask_id_number, "360423199001010007", "360423********0007"),
            (privacy.mask_id_number, "1234567890", "**********"),
            (privacy.mask_address, "江西省九江市武宁县新宁镇北岸村12号", "江西省九江市武宁县新宁镇****"),
            (privacy.mask_address, "江西省武宁县北岸村", "江西省武宁县****"),
            (privacy.mask_address, "北岸村12号", "****"),
            (privacy.mask_bank_account, "6222020000001234", "**** **** **** 1234"),
            (privacy.mask_bank_account, "1234", "****"),
        ],
    )
    def test_of_numbers_and_places_leaves_what_tells_a_region(self, hide: Any, text: str, shown: str) -> None:
        assert hide(text) == shown

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
