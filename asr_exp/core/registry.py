"""Registries of parts by name: a config can name what has been registered, here or in a plugin."""

from collections.abc import Callable
from typing import Generic, TypeVar

from asr_exp.core.errors import UserError, nearest

Part = TypeVar("Part")


class Registry(Generic[Part]):
    """The parts of one kind by name. key: the config key that names one, such as decode.name."""

    def __init__(self, key: str):
        self.key = key
        self._parts: dict[str, Part] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def names(self) -> list[str]:
        """The names of all parts, sorted."""
        return sorted(self._parts)

    def register(self, name: str) -> Callable[[Part], Part]:
        """A decorator that registers a part. Raises UserError where another part has the name already."""

        def add(part: Part) -> Part:
            if self._parts.setdefault(name, part) is not part:
                raise UserError(
                    f"{self.key}={name} is registered twice; a plugin has to take another name for its own."
                )
            return part

        return add

    def find(self, name: str, also: tuple[str, ...] = ()) -> Part:
        """The part of that name. also: further names that the message about an unknown one lists. Raises
        UserError for an unknown name.
        """
        if name not in self._parts:
            known = sorted({*self._parts, *also})
            raise UserError(
                f"{self.key}={name} is not known.{nearest(name, known)} Known: {', '.join(known)}."
            )
        return self._parts[name]
