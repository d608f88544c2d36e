"""The refusal vocabulary. A domain raises these; one place (`mesh.rpc`) turns them into a status.
Separate and pure, so that rules can refuse without knowing a transport."""

import re
from collections.abc import Mapping
from typing import Any

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS = 3, 4, 5, 6
PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED = 7, 8, 9, 10
INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 13, 14, 16


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """A call refused for a reason that the caller can act on.

    The reason is the class's name in capitals, the domain its package's, the keyword arguments the
    `metadata`, and `en` and `zh` the texts, with the metadata filled in."""

    code = FAILED_PRECONDITION
    en = "refused"
    zh = "请求被拒绝"

    def __init__(self, **metadata: str) -> None:
        self.metadata = {key: str(value) for key, value in metadata.items()}
        super().__init__(self.en.format_map(self.metadata))

    @property
    def reason(self) -> str:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).upper()

    @property
    def domain(self) -> str:
        """`habitat.village` for refusals of `services.habitat`, `mesh.village` for those of the plumbing."""
        package = type(self).__module__.split(".")
        return f"{package[1] if package[0] == 'services' else 'mesh'}.village"

    @property
    def localized(self) -> str:
        return self.zh.format_map(self.metadata)


class Invalid(Refusal):
    """A field of the request is wrong. `field` is its path, as in `report.division`."""

    code = INVALID_ARGUMENT
    en = "{field}: {why}"
    zh = "字段 {field} 不符合要求"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(field=field, why=why)
        self.violations: list[tuple[str, str]] = [(field, why)]

    @classmethod
    def several(cls, violations: list[tuple[str, str]]) -> "Invalid":
        """One refusal for several fields: (path, why) each; at least one."""
        refusal = cls(*violations[0])
        refusal.violations = violations
        return refusal


class Unauthenticated(Refusal):
    """Who calls is not known."""

    code = UNAUTHENTICATED
    en = "{why}"
    zh = "身份验证未通过"


class Forbidden(Refusal):
    """The caller may not do this. Raised before it is said whether the record exists."""

    code = PERMISSION_DENIED
    en = "the caller may not call {method} on this: {why}"
    zh = "无权执行此操作"


class NotFound(Refusal):
    """There is no such record."""

    code = NOT_FOUND
    en = "there is no {name}"
    zh = "记录不存在"


class AlreadyExists(Refusal):
    """A record of that name exists."""

    code = ALREADY_EXISTS
    en = "{name} exists"
    zh = "记录已存在"


class Refused(Refusal):
    """The state of things does not allow it."""


class ActionNotAllowed(Refused):
    """The record's state does not allow the action."""

    en = "{action} is not possible in state {state}; possible: {possible}"
    zh = "当前状态（{state}）不允许此操作"


class RuleBroken(Refused):
    """What the call would have written breaks a rule that holds of every such record."""

    en = "{name} would break the rule {rule}"
    zh = "不符合规则（{rule}）"


class NotOwnedHere(Refused):
    """This node does not own the (region, domain)."""

    en = "region {region} is not owned by this node"
    zh = "本节点不负责该地区"


class Conflict(Refusal):
    """The record has moved since it was read."""

    code = ABORTED
    en = "{name} has moved on; read it again"
    zh = "记录已被他人修改，请重新读取"


class Unavailable(Refusal):
    """Something needed is away and nothing was done. `delay` seconds: when to try again."""

    code = UNAVAILABLE
    en = "{what} is not available; nothing was done"
    zh = "服务暂不可用，请稍后重试"

    def __init__(self, *, what: str, delay: float = 1.0) -> None:
        super().__init__(what=what)
        self.delay = delay


class DiskFull(Unavailable):
    """There is no room to write; nothing was done. Repeating it helps when somebody has made room."""

    en = "the disk of {what} is full; nothing was done"
    zh = "节点磁盘已满，暂不能受理"


class Overloaded(Unavailable):
    """As many calls are in hand as can be taken."""

    code = RESOURCE_EXHAUSTED
    en = "{what} is busy; nothing was done"
    zh = "服务繁忙，请稍后重试"


class DeadlineExceeded(Refusal):
    """Time ran out; it may have been done, and repeating with the same request_id is safe."""

    code = DEADLINE_EXCEEDED
    en = "time ran out; repeating with the same request_id is safe"
    zh = "请求超时，可凭同一 request_id 重试"


class Internal(Refusal):
    """A fault of ours. The text never says more."""

    code = INTERNAL
    en = "internal fault; trace {trace_id}"
    zh = "系统内部错误"


class Passed(Refusal):
    """What another node refused with: `status` is its `google.rpc.Status`, `told` its answer's headers."""

    def __init__(self, status: Any, told: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.status, self.code, self.told = status, status.code, dict(told or {})
