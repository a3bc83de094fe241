"""Registries of parts by name: a config can name what has been registered, here or in a plugin."""

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from asr_exp.core.errors import UserError, nearest

Part = TypeVar("Part")
REGISTRIES: "list[Registry[Any]]" = []  # all of them


class Registry(Generic[Part]):
    """The parts of one kind by name. key: the config key that names one, such as decode.name; origins: the
    modules outside asr_exp that registered parts, by their names.
    """

    def __init__(self, key: str):
        self.key = key
        self.origins: dict[str, str] = {}
        self._parts: dict[str, Part] = {}
        REGISTRIES.append(self)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def register(self, name: str) -> Callable[[Part], Part]:
        """A decorator that registers a part. Raises UserError where another part has the name already."""

        def add(part: Part) -> Part:
            if self._parts.setdefault(name, part) is not part:
                raise UserError(
                    f"{self.key}={name} is registered twice; a plugin has to take another name for its own."
                )
            if origin := _registering_module():
                self.origins[name] = origin
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


def _registering_module() -> str | None:
    """The module outside asr_exp that is registering a part just now; None where asr_exp itself is."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "asr_exp":
        if frame.f_code.co_name == "<module>" or frame.f_back is None:
            return None
        frame = frame.f_back
    return frame.f_globals.get("__name__")
