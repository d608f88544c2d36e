"""What stations send by themselves: HJ 212 over TCP with every answer, and MQTT messages, as they are taken.
The listeners themselves: tests/integration/test_feeds.py."""

import datetime
from typing import Any

import orjson
import pytest

from mesh import devices, resources
from services.habitat import collectors, hj212, series_tables
from services.habitat.collectors import Stations
from tests.county import County
from tests.habitat.test_h11_sources import station
from tests.habitat.test_readings import listed
from tests.unit.test_hj212 import HOURLY
from village.habitat.v1 import station_pb2

NUMBER = "360423100201000000WQ0001"


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices report about now: the collectors ask the machine's clock."""
    now = datetime.datetime(2026, 3, 2, 2, 0, tzinfo=datetime.UTC)
    monkeypatch.setattr(resources, "utcnow", lambda: now)


def asked(county: County, *frames: str, parts: hj212.Parts | None = None) -> list[tuple[int, str]]:
    """(CN, content) of the answers."""
    found = hj212.Reader().feed(b"".join(map(hj212.frame, frames)))
    stations = Stations(county.store)
    raw = collectors.take_frames(county.store, stations, parts or hj212.Parts(), list(found))
    answers = list(hj212.Reader().feed(raw))
    return [(a.command, a.content) for a in answers if isinstance(a, hj212.Frame)]


def replaced(**fields: str) -> str:
    text = HOURLY
    for name, value in fields.items():
        head, _, rest = text.partition(f"{name}=")
        text = f"{head}{name}={value};{rest.partition(';')[2]}"
    return text


class TestHj212:
    def test_is_kept_and_answered_once_and_again(self, county: County) -> None:
        of = station(county, taken_command=2061).name
        assert asked(county, HOURLY, HOURLY) == [(9014, ""), (9014, "")]
        assert [r.value for r in listed(county, of).readings] == [11.2]
        assert [r.value for r in listed(county, of, "w01001").readings] == [7.32]

    def test_of_another_command_is_answered_and_not_kept(self, county: County) -> None:
        of = station(county, taken_command=2011).name
        assert asked(county, HOURLY) == [(9014, "")]
        assert not listed(county, of).readings
        current = replaced(CN="2011").replace("-Avg", "-Rtd")
        assert asked(county, current) == [(9014, "")]
        assert [r.value for r in listed(county, of).readings] == [11.2]

    def test_what_one_connection_brings_at_once_is_one_commit(
        self, county: County, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        of, commits = station(county, taken_command=2061).name, list[int]()
        add = series_tables.add_readings

        def counted(*given: Any) -> None:
            commits.append(1)
            add(*given)

        monkeypatch.setattr(series_tables, "add_readings", counted)
        hours = [HOURLY.replace("DataTime=2026030108", f"DataTime=20260301{hour:02d}") for hour in range(8)]
        assert asked(county, *hours) == [(9014, "")] * 8
        assert (len(listed(county, of).readings), len(commits)) == (8, 1)

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (replaced(MN="360423100201000000WQ0009"), hj212.BAD_MN), (replaced(PW="654321"), hj212.BAD_PW),
            (replaced(ST="32"), hj212.BAD_ST), (replaced(CN="1062"), hj212.BAD_CN),
            (HOURLY.replace("DataTime=2026", "DataTime=2036"), hj212.REJECTED),
            (HOURLY.replace("w0", "z9"), hj212.REJECTED),
            (HOURLY.replace("DataTime=20260301080000;", ""), hj212.UNKNOWN),
        ],
    )  # fmt: skip
    def test_says_by_its_code_what_is_wrong(self, county: County, text: str, code: int) -> None:
        of = station(county, taken_command=2061, access_code="123456").name
        assert asked(county, text, HOURLY) == [(9011, f"QnRtn={code}"), (9014, "")]
        assert [r.value for r in listed(county, of).readings] == [11.2]

    def test_without_a_wish_for_one_gets_no_answer(self, county: County) -> None:
        of = station(county, taken_command=2061).name
        assert asked(county, replaced(Flag="4")) == []
        assert len(listed(county, of).readings) == 1

    def test_in_parts_is_kept_when_it_is_whole(self, county: County) -> None:
        of, parts = station(county, taken_command=2061).name, hj212.Parts()
        head = HOURLY.partition("Flag=")[0] + "Flag=7;PNUM=2;PNO={};CP=&&{}&&"
        assert asked(county, head.format(1, "DataTime=20260301080000"), parts=parts) == [(9014, "")]
        assert not listed(county, of).readings
        assert asked(county, head.format(2, "w01018-Avg=9.0,w01018-Flag=T"), parts=parts) == [(9014, "")]
        assert [(r.value, r.flag) for r in listed(county, of).readings] == [(9.0, "T")]


class TestMqtt:
    def send(self, county: County, *payloads: Any, topic: tuple[str, ...] = ("360423", NUMBER)) -> list[Any]:
        messages = [devices.Message(topic, p if isinstance(p, bytes) else orjson.dumps(p)) for p in payloads]
        return [
            orjson.loads(a) for a in collectors.take_messages(county.store, Stations(county.store), messages)
        ]

    def moment(self, n: int, **values: float) -> dict[str, Any]:
        return {"time_ms": 1_772_380_800_000 + n * 60_000, "values": values}

    def test_is_kept_once(self, county: County) -> None:
        of = station(county).name
        sent = [
            self.moment(0, w01018=9.0, w01003=2.0),
            [self.moment(1, w01018=9.5), self.moment(2, w01018=9.7)],
        ]
        assert self.send(county, *sent) == [{"kept": 2}, {"kept": 2}]
        assert self.send(county, *sent) == [{"kept": 2}, {"kept": 2}]
        assert [r.value for r in listed(county, of).readings] == [9.0, 9.5, 9.7]

    def test_carries_the_device_s_own_mark(self, county: County) -> None:
        of = station(county).name
        self.send(county, {**self.moment(0, w01018=9.0), "flags": {"w01018": "D"}})
        assert [(r.flag, r.invalid) for r in listed(county, of).readings] == [("D", "FLAG")]

    @pytest.mark.parametrize(
        "bad",
        [b"", b"{", b"[]x", b"7", {}, {"values": {"w01018": 1}}, {"time_ms": 1, "values": {"w01018": 1}},
         {"time_ms": 4e15, "values": {"w01018": 1}}, {"time_ms": "x", "values": {"w01018": 1}},
         {"time_ms": 1772380800000, "values": {"w01018": "x"}},
         {"time_ms": 1772380800000, "values": {"z": 1}},
         {"time_ms": 1772380800000, "values": {"w01018": 1}, "flags": {"w01018": "XX"}}],
    )  # fmt: skip
    def test_that_cannot_be_taken_holds_up_nothing(self, county: County, bad: Any) -> None:
        of = station(county).name
        first, second = self.send(county, bad, self.moment(0, w01018=9.0))
        assert "refused" in first
        assert second == {"kept": 1}
        assert [r.value for r in listed(county, of).readings] == [9.0]

    def test_of_an_unknown_device_is_refused(self, county: County) -> None:
        station(county)
        for topic in (("360423", "none"), ("360424", NUMBER), ("360423", "x", NUMBER), (NUMBER,)):
            (said,) = self.send(county, self.moment(0, w01018=9.0), topic=topic)
            assert "refused" in said


def test_a_device_number_is_one_station_s(county: County) -> None:
    from mesh import errors

    made = station(county)
    with pytest.raises(errors.Invalid, match=r"station\.device_number"):
        station(county)
    change = station_pb2.UpdateStationRequest(name=made.name, station={"title": "盘溪站"})
    assert county.call("county", change).device_number == NUMBER
