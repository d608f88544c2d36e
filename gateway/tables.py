"""The questions of the node process that only SQL can answer."""

from typing import Any

import sqlalchemy as sa


def by_code(table: sa.Table) -> Any:
    """Names of the invitations with a code's digest."""
    digest = sa.bindparam("code_digest", type_=table.c.code_digest.type)
    return sa.select(table.c.name).where(table.c.code_digest == digest)
