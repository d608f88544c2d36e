"""Requests with a request_id: answered once, their answer kept and given again. Separate from the chain,
which asks it before and after a handler runs."""

import datetime
import hashlib
from typing import Any

from google.protobuf.message import Message

from mesh import contract, errors, statements
from mesh.changes import Acting


class Once:
    """A request with a request_id, which is answered once and its answer kept."""

    def __init__(
        self, store: Any, acting: Acting, method: contract.Method, request: Any, *, region: str,
        longer: datetime.timedelta | None = None, response: type[Message] | None = None,
    ) -> None:  # fmt: skip
        self._store, self._acting, self._response = store, acting, response or method.response
        self._region, self._until = region, acting.now + (longer or datetime.timedelta())
        raw = method.path.encode() + _bare(method, request).SerializeToString(deterministic=True)
        self._fingerprint = hashlib.sha256(raw).hexdigest()
        self._context = f"{acting.reference}/{acting.request_id}"

    def answered(self) -> Message | None:
        """The first answer to a repeated request."""
        found = self._store.answered(self._acting.reference, self._acting.request_id)
        if found is None:
            return None
        if found[0] != self._fingerprint:
            raise errors.Invalid("request_id", "was used for another request")
        return self._response.FromString(
            bytes.fromhex(self._store.rings.data.decrypt(found[1], self._context))
        )

    def kept(self, answer: Message) -> statements.Write:
        """The row that keeps the answer."""
        sealed = self._store.rings.data.encrypt(answer.SerializeToString().hex(), self._context)
        row = {
            "caller": self._acting.reference, "request_id": self._acting.request_id, "region": self._region,
            "fingerprint": self._fingerprint, "answer": sealed, "time": self._store.instant(self._until),
        }  # fmt: skip
        return statements.Write(self._store.plumbing.request, row)


def _bare(method: contract.Method, request: Any) -> Any:
    """A request as whoever repeats it asks again: the province gives what is created a name of its own
    choosing each time that it passes a request on."""
    if not (method.deferrable and method.parent == "parent"):
        return request
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField(f"{contract.snake(contract.resource(method.response).singular)}_id")
    return bare
