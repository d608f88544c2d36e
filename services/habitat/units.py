"""What a laboratory or a farm may see and do: what is its own. Separate, because several areas have such
callers, whose permission hangs on their organisation."""

from mesh import calls


def only_own(call: calls.Call) -> bool:
    """Whether the caller may call this only for what his organisation handles."""
    return not any(rule.roles & call.caller.roles for rule in call.method.rules if not rule.handling_unit)
