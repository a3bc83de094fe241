"""Columns that cost little more than what they hold."""

import re
from array import array
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, overload


class PackedStrings(Sequence[str]):
    """Strings one after the other in one buffer, in UTF-8. Each costs its bytes and eight more."""

    def __init__(self, values: Iterable[str] = ()):
        self._bytes, self._ends = bytearray(), array("q", [0])
        self.extend(values)

    def append(self, value: str) -> None:
        self._bytes += value.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def extend(self, values: Iterable[str]) -> None:
        for value in values:
            self.append(value)

    def match(self, pattern: re.Pattern[bytes]) -> bool:
        """Whether a pattern occurs in one of the strings, in UTF-8."""
        return pattern.search(self._bytes) is not None

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return str(self._bytes[self._ends[index] : self._ends[index + 1]], "utf-8", "surrogatepass")


class CategoricalColumn:
    """A column with few distinct values. Each row costs four bytes, the number of its value."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._rows = array("i")

    def append(self, key: Hashable, value: Any) -> None:
        """Add a row with a value, or with the value that was first added with the same key."""
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        self._rows.append(number)

    def __getitem__(self, row: int) -> Any:
        return self.values[self._rows[row]]
