"""docs/flows.md against the flows of the services."""

import re

from cli import lifecycles
from mesh import flows
from services.habitat.service import SERVICE


class TestDocument:
    TEXT = lifecycles.DOCUMENT.read_text()

    def test_says_what_the_flows_and_the_protos_say(self) -> None:
        assert lifecycles.document() == self.TEXT

    def test_draws_every_flow_under_a_title_of_its_own(self) -> None:
        titles = re.findall(r"^### (.+)$", self.TEXT, re.MULTILINE)
        assert len(titles) == len(set(titles)) == len(SERVICE.lifecycles)
        for title in titles:
            assert re.fullmatch(r"[A-Z][a-z -]+ \([\u4e00-\u9fff、]+\)", title), title
        for flow in SERVICE.lifecycles:
            assert f"```mermaid\n{flows.diagram(flow)}```" in self.TEXT

    def test_has_the_limits_that_a_new_node_begins_with(self) -> None:
        assert re.search(
            r"^\| assign \| ACCEPTED, RETURNED \| ASSIGNED \|.+\| "
            r"3 working days / 5 working days / 7 working days \(village / township / county\) \|$",
            self.TEXT,
            re.MULTILINE,
        )
        assert re.search(r"^\| start \| PLANNED \| COLLECTING \|.+\| 12 h \|$", self.TEXT, re.MULTILINE)
