"""Dead letters by command line: listed, read, replayed, dropped."""

import json
import pathlib

from cli import serve
from mesh import calls, resources, runtime
from tests.integration.test_local_node import County, mesh
from village.habitat.v1 import events_pb2
from village.mesh.v1.dead_letter_pb2 import DeadLetter, DeadLetterKept


def test_are_listed_read_and_dropped_and_replay_says_why_it_cannot(tmp_path: pathlib.Path) -> None:
    node = County(tmp_path / "360423")
    assert node.up().returncode == 0
    assert mesh("down", "--data", str(node.data)).returncode == 0
    settings, _ = serve.of_node(node.data)
    (hosted,), _ = runtime.assemble([serve.service("habitat")], settings)
    assert hosted.store is not None
    call = calls.own(hosted.store, "test", resources.utcnow(), "360423")
    event = events_pb2.ReportFiled(report={"name": "regions/360423/reports/x"})
    letter = DeadLetter(
        reaction="gone", why="ValueError", attempts=6, subject="village.36.04.23.habitat.report.filed",
        payload=event.SerializeToString(), headers=[{"key": "ce-type", "value": event.DESCRIPTOR.full_name}],
    )  # fmt: skip
    call.create(letter, parent="regions/360423", event=DeadLetterKept, wanted="e1-gone")
    hosted.store.commit(call.changes.commit())  # type: ignore[arg-type]
    hosted.store.database.close()
    assert node.up().returncode == 0
    try:
        usual = ("--domain", "habitat", "--region", "360423", "--token", node.token("ADM"))

        def said(*words: str) -> tuple[int, str, str]:
            done = mesh("dead-letters", "--data", str(node.data), *words, *usual)
            return done.returncode, done.stdout, done.stderr

        code, out, _ = said("list")
        assert code == 0
        name = out.split()[0]
        assert name == "regions/360423/deadLetters/e1-gone"
        assert "ValueError" in out
        assert json.loads(said("read", name)[1])["data"]["report"]["name"] == "regions/360423/reports/x"
        code, _, wrong = said("replay", name)
        assert code == 1
        assert "there is no reaction gone" in wrong
        assert said("drop", name)[:2] == (0, f"{name}: settled\n")
        assert said("list")[1] == ""
        assert "settled" in said("list", "--all")[1]
        assert said("drop")[0] == 2
        officer = mesh("dead-letters", "--data", str(node.data), "list", *usual[:-1], node.token("KA"))
        assert "may not call ListDeadLetters" in officer.stderr
    finally:
        mesh("down", "--data", str(node.data))
