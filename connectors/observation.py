"""What one check of a source database saw."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """`message` says what is; if that is wrong, `remedy` holds the SQL statements that mend it, in order, and
    `allowed` says whether the connected user may execute them. A wrong thing that no SQL mends has no remedy,
    and its message says what to do instead."""

    check: str
    message: str
    wrong: bool = False
    remedy: tuple[str, ...] = ()
    allowed: bool = False
