"""`python -m cli.lifecycles`: writes docs/flows.md, the life cycle of every record of every service, from the
flows as data, the comments in the protos, and the limits that a new node begins with."""

import datetime
import importlib
import pathlib
import re
from typing import Any

from google.protobuf.message import Message

from gateway import schemas
from mesh import contract, flows, resources
from village.type.v1 import level_pb2

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/flows.md"
_ARTICLES = re.compile("^Describes (an? |the )?")
_LEVELS = (level_pb2.LEVEL_VILLAGE, level_pb2.LEVEL_TOWNSHIP, level_pb2.LEVEL_COUNTY)


class Beginning:
    """What a service sets up at a new node: its `seed` creates it here, and nothing is stored."""

    region, now = "360423", resources.EPOCH

    def __init__(self) -> None:
        self.created: list[Any] = []

    def find(self, *_: Any) -> None:
        """Nothing is there yet."""

    def create(self, message: Any, **_: Any) -> None:
        self.created.append(message)

    def policy(self, flow: flows.Flow) -> Any:
        """The limits that a record of the flow falls under."""
        work = contract.resource(flow.resource).plural
        of_it = (p for p in self.created if flow.policy and isinstance(p, flow.policy))
        return next(p for p in of_it if getattr(p, "work", work) == work)


def document() -> str:
    """The document's text."""
    lines = [
        "# Life cycles (流程)",
        "",
        "Written by `python -m cli.lifecycles` from the flows of the services and the comments in",
        "`protos/`; a test compares. 本页由程序依据各服务的流程定义和接口契约自动生成。",
        "",
        "Each verb leads from one state to the next and is announced by an event. *Next step due within*",
        "is what a new node begins with, in working days (工作日) or hours; none of it is from a standard,",
        "and a region issues its own policy (时限规定). What is not done in time is overdue and raised one",
        "level at a time (逾期升级). A verb that leads to no state leaves the state as it is. Who may call",
        "what stands in [access.md](access.md).",
    ]
    for path in sorted((ROOT / "services").glob("*/service.py")):
        service = importlib.import_module(f"services.{path.parent.name}.service").SERVICE
        told, beginning = comments(service.package), Beginning()
        if service.seed is not None:
            service.seed(beginning)
        lines += ["", f"## {service.domain}"]
        for flow in service.lifecycles:
            lines += _chapter(flow, told, beginning)
    return "\n".join(lines) + "\n"


def comments(package: str) -> dict[str, str]:
    """What the protos say of each message, and of each value of a state, by its full name."""
    told: dict[str, str] = {}
    for of in schemas.Contracts.of((ROOT / "gen/village.binpb").read_bytes()).types.values():
        if not of.full_name.startswith(f"{package}."):
            continue
        if of.is_message:
            told[of.full_name] = " ".join(of.comment.split())
        else:
            values = zip(of.proto.value, of.parts, strict=True)
            told |= {f"{of.full_name}.{value.name}": " ".join(said.split()) for value, said in values}
    return told


def _chapter(flow: flows.Flow, told: dict[str, str], beginning: Beginning) -> list[str]:
    record: Any = flow.resource.DESCRIPTOR
    title = _ARTICLES.sub("", told[record.full_name]).partition(")")[0] + ")"
    lines = ["", f"### {title[0].upper()}{title[1:]}", "", f"`{record.full_name}`", "", "```mermaid"]
    lines += [*flows.diagram(flow).splitlines(), "```", "", "| state | meaning |", "|---|---|"]
    for value in record.fields_by_name["state"].enum_type.values[1:]:
        meaning = told[f"{record.full_name}.State.{value.name}"].rstrip(".")
        lines.append(f"| {flow.state_name(value.number)} | {meaning} |")
    policy = beginning.policy(flow) if flow.policy else None
    lines += ["", "| verb | from | to | event | next step due within |", "|---|---|---|---|---|"]
    for name, action in flow.actions.items():
        before = ", ".join(flow.state_name(s) for s in sorted(action.sources)) or "any"
        after = flow.state_name(action.target) if action.target is not None else ""
        before = "" if name == next(iter(flow.actions)) else before
        event = action.event.DESCRIPTOR
        fact = told[event.full_name].removeprefix("Says that ").partition(". ")[0].rstrip(".")
        due = _due(action, flow.resource, policy)
        lines.append(f"| {name} | {before} | {after} | `{event.name}`: {fact} | {due} |")
    return lines


def _due(action: flows.Action, resource: type[Message], policy: Any) -> str:
    if action.extends is not None:
        return f"{_span(action.extends(policy, resource()))} more"
    if action.stops:
        return f"the clock stops: {', '.join(sorted(action.stops))}"
    if action.limit is None:
        return "unchanged" if action.keeps_clock and policy is not None else ""
    spans = []
    for level in _LEVELS:  # a limit may hang on who handles the record
        record: Any = resource()
        if "handling_level" in record.DESCRIPTOR.fields_by_name:
            record.handling_level = level
        spans.append(_span(action.limit(policy, record)))
    return spans[0] if len(set(spans)) == 1 else f"{' / '.join(spans)} (village / township / county)"


def _span(span: int | datetime.timedelta) -> str:
    if isinstance(span, int):
        return f"{span} working day{'s' * (span != 1)}"
    return f"{span / datetime.timedelta(hours=1):g} h"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
