"""A member of an archive, or a row of a table."""

from __future__ import annotations

from typing import NamedTuple


class Member(NamedTuple):
    """A member as listed."""

    name: str
    size: int | None
    place: str
    """Its position: a letter that selects the reader, and what that reader needs."""
    is_link: bool = False
    is_row: bool = False
