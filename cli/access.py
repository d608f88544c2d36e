"""`python -m cli.access`: writes docs/access.md, who may call what, from the annotations in the protos."""

import pathlib

from mesh import contract
from village.options.v1 import options_pb2

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs/access.md"
PACKAGES = ("village.mesh.v1", "village.habitat.v1")
REACH: dict[int, str] = {
    options_pb2.SCOPE_OWN_REGION: "own region",
    options_pb2.SCOPE_SUBTREE: "subtree",
    options_pb2.SCOPE_OWN_RECORDS: "own records",
}


def document() -> str:
    """The document's text."""
    roles = options_pb2.Role.DESCRIPTOR.values[1:]
    names = [value.name.removeprefix("ROLE_") for value in roles]
    lines = [
        "# Who may call what",
        "",
        "Written by `python -m cli.access` from the annotations in `protos/`; a test compares.",
        "",
        "*Own region*: records of the region in the caller's token; a township's or village's token reaches",
        "only its own division. *Subtree*: records of any region inside it. *Own records*: those that the",
        "caller created. *A node of the mesh*: one that belongs to it, in its own name, which it proves by",
        "the header `x-village-node`; nobody's role counts. Everybody else is refused.",
        "",
        "权限一览：own region 指令牌所属地区的记录，乡镇、村只限本区划；subtree 指其全部下级地区的记录；",
        "own records 指调用者本人建立的记录；anyone 指无须令牌；a node of the mesh 指网格中的节点。未列出者",
        "一律拒绝。",
        "",
        "| role | Chinese name |",
        "|---|---|",
    ]
    for name, value in zip(names, roles, strict=True):
        lines.append(f"| {name} | {value.GetOptions().Extensions[options_pb2.role].name_zh} |")
    for package in PACKAGES:
        methods = contract.read(package).methods.values()
        used = [n for n in names if any(n in rule.roles for method in methods for rule in method.rules)]
        lines += ["", f"## {package}", "", f"| method | {' | '.join([*used, 'besides'])} |"]
        lines.append("|---" * (len(used) + 2) + "|")
        lines += [_row(method, used) for method in methods]
    return "\n".join(lines) + "\n"


def _row(method: contract.Method, used: list[str]) -> str:
    if any(rule.scope == options_pb2.SCOPE_PUBLIC for rule in method.rules):
        return f"| {method.name} |{' anyone |' * len(used)} no token needed |"
    if method.of_nodes:
        return f"| {method.name} |{'  |' * len(used)} a node of the mesh |"
    cells = [" or ".join(REACH[rule.scope] for rule in method.rules if role in rule.roles) for role in used]
    demands = ["the caller's organisation handles it" for rule in method.rules if rule.handling_unit]
    demands += [f"not the {', '.join(rule.differs_from)}" for rule in method.rules if rule.differs_from]
    return f"| {method.name} | {' | '.join([*cells, ', '.join(demands)])} |"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
