"""What becomes of a former owner that comes back after a takeover (接管). Separate from `handovers`, which is
done by then."""

from collections.abc import Callable
from typing import Any

from mesh import copies, errors, resources
from village.mesh.v1 import handover_pb2 as pb
from village.mesh.v1 import link_pb2

SOON_S = 3.0
"""When a former owner is asked again that is there, and has not heard of the takeover or does not answer."""


class Former:
    """The former owner of a pair. `me`: the province's region; `ask(node, method, request)`: calls a node's
    log service."""

    def __init__(self, me: str, takeover: pb.Handover, ask: Callable[[str, str, Any], bytes]) -> None:
        self._me, self._it, self._ask = me, takeover, ask
        self._parent = f"regions/{takeover.about_region}"

    def wind_up(self, *, told: bool) -> float | None:
        """What it did before it heard of the takeover is set aside; when somebody has decided on that, it
        keeps no more than may leave its successor. In how many seconds to go on; None when there is
        nothing to do. `told`: it has given one; until then it is not asked while somebody has to decide."""
        if not told and self._undecided():
            return SOON_S
        return 0.0 if self._set_late_events_aside() else self._reduce()

    def _set_late_events_aside(self) -> bool:
        """A batch of them, for somebody to decide on; nobody applies them. Whether there may be more."""
        at = self._known()
        request = link_pb2.PullLogRequest(parent=self._parent, epoch=at[0], incarnation=at[1], after=at[2])
        answer = link_pb2.PullLogResponse.FromString(self._ask(self._it.giver, "PullLog", request))
        if answer.epoch >= self._it.epoch:  # what it has copied of its successor's
            return False
        rows = copies.unpacked(answer.rows)
        self._it.late += self._set_aside(answer.rows).late
        same = (answer.epoch, answer.incarnation) == at[:2]
        number = rows[-1].number if rows else at[2] if same else 0
        self._it.cursor = f"{answer.epoch}.{answer.incarnation}.{number}"
        return bool(rows) or not same

    def _known(self) -> tuple[int, int, int]:
        """Up to where its log was copied, or set aside."""
        epoch, incarnation, number = (int(part) for part in self._it.cursor.split("."))
        return epoch, incarnation, number

    def _undecided(self) -> int:
        """How many late events wait for somebody to decide."""
        waiting = self._set_aside(b"").waiting
        if waiting:
            self._it.trouble = f"{waiting} late events of node {self._it.giver} wait for somebody to decide"
        return waiting

    def _set_aside(self, rows: bytes) -> pb.SetEventsAsideResponse:
        request = pb.SetEventsAsideRequest(
            parent=f"regions/{self._me}", about_region=self._it.about_region, rows=rows
        )
        return pb.SetEventsAsideResponse.FromString(self._ask(self._me, "SetEventsAside", request))

    def _reduce(self) -> float | None:
        """Not while somebody has to decide: the copy holds no contacts and no free text, the former owner
        does. It refuses until it has heard that it is the owner no more, and while it has more to tell."""
        if self._undecided():
            return SOON_S
        epoch, incarnation, number = self._known()
        request = pb.ReduceRegionRequest(
            parent=self._parent, epoch=epoch, incarnation=incarnation, number=number
        )
        try:
            self._ask(self._it.giver, "ReduceRegion", request)
        except errors.Passed as refusal:
            if refusal.code not in (errors.FAILED_PRECONDITION, errors.ABORTED):
                raise
            return SOON_S
        self._it.reduce_time.CopyFrom(resources.stamp(resources.utcnow()))
        return None
