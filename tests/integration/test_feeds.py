"""Stations that report by themselves to a real node (H-5, H-11): HJ 212 over TCP, MQTT through the broker;
what was acknowledged is there, once, although programs are killed in between."""

import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.local import prepare
from services.habitat import hj212
from tests import mqtt
from tests.habitat.test_h11_sources import INSTRUMENTS
from tests.integration.test_local_node import mesh as villagemesh
from tests.mesh import WUNING, Node
from tests.waiting import free_port, free_ports, until

NUMBER = "360423100201000000WQ0001"
FRAME = "QN={qn};ST=21;CN=2061;PW=123456;MN={mn};Flag=5;CP=&&DataTime={at};w01018-Avg={value},w01018-Flag=N&&"
PARENT = f"/habitat/v1/regions/{WUNING}"


class County(Node):
    """A county's node that takes what stations send."""

    def __init__(self, data: pathlib.Path) -> None:
        super().__init__(data, WUNING, ("habitat",), free_ports(4))
        self.hj212, self.mqtt = free_port(), free_port()
        feeds = f"hj212=127.0.0.1:{self.hj212},mqtt=127.0.0.1:{self.mqtt}"
        self.plan = prepare.Plan(region=WUNING, services=("habitat",), port=self.port, feeds=feeds)

    def password(self, number: str) -> str:
        said = villagemesh("device", "--data", str(self.data), "--number", number)
        assert said.returncode == 0, said.stderr
        return said.stdout.strip()

    def station(self, wanted: str, number: str) -> str:
        body = {
            "title": wanted, "division": f"{WUNING}100201",
            "location": {"latitude": 29.2, "longitude": 115.1},
            "kind": "KIND_SOURCE_WATER", "deviceNumber": number, "takenCommand": 2061,
            "instruments": [
                {"factor": i["factor"], "unit": i["unit"], "low": i["low"], "high": 1e9, "intervalS": 60}
                for i in INSTRUMENTS
            ],
        }  # fmt: skip
        made = self.call("POST", f"{PARENT}/stations?stationId={wanted}", body, token=self.token("KA"))
        assert made.status == 200, made.body
        return str(made.body["name"])

    def kept(self, station: str) -> dict[int, float]:
        """By its time in seconds each reading of COD that is kept."""
        found, token = {}, ""
        while True:
            query = f"?factor=w01018&pageSize=10000&pageToken={token}"
            page = self.call("GET", f"/habitat/v1/{station}/readings{query}", token=self.token("KA"))
            assert page.status == 200, page.body
            for reading in page.body.get("readings", ()):
                at = time.mktime(time.strptime(reading["time"][:19], "%Y-%m-%dT%H:%M:%S"))
                assert at not in found
                found[int(at - time.timezone)] = reading["value"]
            token = page.body.get("nextPageToken", "")
            if not token:
                return found


@pytest.fixture(scope="module")
def county(tmp_path_factory: pytest.TempPathFactory) -> Iterator[County]:
    node = County(tmp_path_factory.mktemp("feeds") / "node")
    node.start()
    try:
        yield node
    finally:
        node.stop()


def frame(n: int, number: str = NUMBER) -> bytes:
    """A frame of the n-th hour of January, with n as its value."""
    at = f"202601{n // 24 + 1:02d}{n % 24:02d}0000"
    return hj212.frame(FRAME.format(qn=f"{at}000", mn=number, at=at, value=float(n)))


def exchange(port: int, raw: bytes, answers: int) -> list[hj212.Frame]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(raw)
        reader, found = hj212.Reader(), []
        while len(found) < answers:
            some = line.recv(65_536)
            assert some, "the line was ended"
            found += [f for f in reader.feed(some) if isinstance(f, hj212.Frame)]
    return found


class TestHj212:
    def test_over_tcp_is_answered_when_it_is_kept(self, county: County) -> None:
        name = county.station("hj-1", NUMBER)
        until(lambda: exchange(county.hj212, frame(0), 1)[0].command == 9014)
        found = exchange(county.hj212, b"".join(map(frame, range(100))), 100)
        assert {f.command for f in found} == {9014}
        assert sorted(county.kept(name).values()) == [float(n) for n in range(100)]

    def test_in_pieces_between_rubbish_is_read(self, county: County) -> None:
        raw = b"\x00##12" + frame(3) + b"####" + frame(4)
        with socket.create_connection(("127.0.0.1", county.hj212), timeout=20) as line:
            for n in range(0, len(raw), 7):
                line.sendall(raw[n : n + 7])
            reader, found = hj212.Reader(), []
            while len(found) < 2:
                found += list(reader.feed(line.recv(65_536)))
        assert [f.command for f in found if isinstance(f, hj212.Frame)] == [9014, 9014]


class TestMqtt:
    def test_tells_a_station_what_was_kept(self, county: County) -> None:
        number = "360423100201000000WQ0002"
        name, topic = county.station("mq-1", number), f"readings/{WUNING}/{number}"
        with mqtt.Station(county.mqtt, number, county.password(number)) as station:
            station.subscribe(f"{topic}/answer")
            payload = {"time_ms": 1_767_225_600_000, "values": {"w01018": 7.5, "w01003": 2.0}}
            assert station.publish(topic, [json.dumps(payload).encode(), b"{"]) == 2
            told = [json.loads(raw) for raw in station.hear(2)]
        assert told[0] == {"kept": 2}
        assert "refused" in told[1]
        assert list(county.kept(name).values()) == [7.5]

    def test_lets_nobody_in_without_the_password_and_nobody_out_of_his_topic(self, county: County) -> None:
        one, other = "360423100201000000WQ0003", "360423100201000000WQ0004"
        name = county.station("mq-2", other)
        password = county.password(one)
        with pytest.raises(mqtt.Refused):
            mqtt.Station(county.mqtt, one, "wrong")
        payload = json.dumps({"time_ms": 1_767_225_600_000, "values": {"w01018": 1.0}}).encode()
        own = county.station("mq-3", one)
        with mqtt.Station(county.mqtt, one, password) as station:
            station.publish(f"readings/{WUNING}/{other}", [payload])
            station.publish(f"readings/{WUNING}/{one}", [payload])
        until(lambda: county.kept(own))
        assert not county.kept(name)

    def test_loses_nothing_that_was_acknowledged_when_programs_are_killed(self, county: County) -> None:
        number = "360423100201000000WQ0005"
        name, topic, password = (
            county.station("mq-4", number),
            f"readings/{WUNING}/{number}",
            county.password(number),
        )
        acknowledged: list[int] = []
        stop = threading.Event()

        def report() -> None:
            n = 0
            while not stop.is_set():
                try:
                    with mqtt.Station(county.mqtt, number, password, timeout=5) as station:
                        while not stop.is_set():
                            at = 1_767_225_600_000 + n * 60_000
                            station.publish(
                                topic, [json.dumps({"time_ms": at, "values": {"w01018": float(n)}}).encode()]
                            )
                            acknowledged.append(n)
                            n += 1
                except (OSError, mqtt.Refused):
                    time.sleep(0.1)

        reporting = threading.Thread(target=report)
        reporting.start()
        try:
            for program in ("services", "nats", "services"):
                so_far = len(acknowledged)
                until(lambda so_far=so_far: len(acknowledged) > so_far + 150, 30)
                before = county.pid(program)
                county.kill(program)
                until(lambda program=program, before=before: county.pid(program) not in (0, before), 30)
            so_far = len(acknowledged)
            until(lambda: len(acknowledged) > so_far + 150, 30)
        finally:
            stop.set()
            reporting.join(20)

        def there() -> bool:
            kept: Any = county.call("GET", f"/habitat/v1/{name}", token=county.token("KA"))
            return kept.status == 200 and set(acknowledged) <= {int(v) for v in county.kept(name).values()}

        until(there, 60)
