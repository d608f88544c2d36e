"""What is ended when a call's time is over."""

import threading
import time

import pytest

from mesh import deadlines, errors


class Driver:
    """A connection that takes its time to be interrupted."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.asked = threading.Event()

    def interrupt(self) -> None:
        self.asked.set()
        time.sleep(0.1)
        self.said.append("ended")


def test_lets_nothing_follow_on_a_connection_while_it_is_being_ended() -> None:
    driver = Driver()
    with deadlines.keeping(deadlines.after(0.01)), deadlines.ending(driver):
        assert driver.asked.wait(5)
    driver.said.append("the next statement")
    time.sleep(3 * deadlines.LOOKS_S)
    assert driver.said[-1] == "the next statement"
    assert "ended" in driver.said


def test_ends_again_what_had_not_begun_when_it_was_ended() -> None:
    driver = Driver()
    with deadlines.keeping(deadlines.after(0.01)), deadlines.ending(driver):
        for _ in range(2):
            assert driver.asked.wait(5)
            driver.asked.clear()


def test_leaves_alone_what_has_no_deadline_or_time_left() -> None:
    driver = Driver()
    with deadlines.ending(driver):
        time.sleep(3 * deadlines.LOOKS_S)
    with deadlines.keeping(deadlines.after(60)), deadlines.ending(driver):
        time.sleep(3 * deadlines.LOOKS_S)
    assert not driver.asked.is_set()


def test_begins_nothing_when_time_is_over() -> None:
    over, driver = deadlines.keeping(deadlines.after(0)), Driver()
    with pytest.raises(errors.DeadlineExceeded), over, deadlines.ending(driver):
        raise AssertionError
    assert deadlines.until() is None
