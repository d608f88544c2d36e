"""What a laboratory or a farm may see and do: what is its own. Separate, because several areas have such
callers, whose permission hangs on their organisation."""

from typing import Any

from mesh import calls


def only_own(call: calls.Call) -> bool:
    """Whether the caller may call this only for what his organisation handles."""
    return not any(rule.roles & call.caller.roles for rule in call.method.rules if not rule.handling_unit)


def own(list_: Any, field: str) -> Any:
    """A list that shows such a caller only the records whose `field` names his organisation."""

    def listed(request: Any, call: calls.Call) -> Any:
        if only_own(call):
            mine = f'{field} = "{call.caller.organisation}"'
            request.filter = f"({request.filter}) AND {mine}" if request.filter.strip() else mine
        return list_(request, call)

    return listed
