"""All of habitat, over the wire and with its broker: nothing is found, and every rule that can be is checked."""

import pathlib

from conform import notes, rules, run, target
from tests.conform.served import Served
from tests.county import REGION


def test_habitat_keeps_every_rule(tmp_path: pathlib.Path) -> None:
    served = Served(tmp_path)
    try:
        found = run.run(
            run.Plan(
                target=target.Target(served.address), region=REGION, tokens=served.tokens, write=True,
                nats=served.broker.url,
            )
        )  # fmt: skip
    finally:
        served.close()
    assert [str(note) for note in found.of(notes.FAILED)] == []
    passed = [note.rule.name for note in found.of(notes.PASSED)]
    never = {rule.name for rule in rules.RULES} - set(passed)
    assert never == {"comments", "told"}, "a server of Python tells no comments, a node by itself not who serves"
    least = {"create": 45, "request-id": 45, "etag": 70, "page-walk": 30, "validation": 1900, "event-sent": 40}
    assert {name: count for name, count in least.items() if passed.count(name) < count} == {}
