"""Which rows a tensor has of the one that random numbers are drawn for, where a pass is run in parts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DrawnRows:
    """Rows of a tensor that is a part of a larger one. Random numbers are drawn for all rows of the larger
    one, and those of the part are used, so that a pass run in parts drops what the whole pass would.

    first, count: the rows of the larger tensor that the part has. total: rows of the larger tensor. tail:
    rows at the end of the part that are not used.
    """

    first: int
    count: int
    total: int
    tail: int = 0
