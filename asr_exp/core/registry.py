"""Registries of parts by name: a config can name what has been registered, here or in a plugin."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Generic, TypeVar

from asr_exp.core.errors import UserError, nearest

Part = TypeVar("Part")
REGISTRIES: "list[Registry[Any]]" = []  # all of them


class Registry(Generic[Part]):
    """The parts of one kind by name.

    key: the config key that names one, such as decode.name; built_in: modules of asr_exp by the names of the
    parts that they register, which are imported when such a part is looked for; origins: the modules outside
    asr_exp that registered parts, by their names; places: where they did, 'FILE, line N'.
    """

    def __init__(self, key: str, built_in: Mapping[str, str] | None = None):
        self.key = key
        self.origins: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self._built_in = dict(built_in or {})
        self._parts: dict[str, Part] = {}
        REGISTRIES.append(self)

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._built_in

    def names(self) -> list[str]:
        """The names of all parts, sorted."""
        return sorted(self._parts)

    def register(self, name: str) -> Callable[[Part], Part]:
        """A decorator that registers a part. Raises UserError where another part has the name already."""

        def add(part: Part) -> Part:
            frame = _registering_frame()
            place = f"{frame.f_code.co_filename}, line {frame.f_lineno}" if frame else ""
            if self._parts.get(name, part) is not part or frame and name in self._built_in:
                self._check_redefined(name, place)
            self._parts[name] = part
            if frame:
                self.origins[name], self.places[name] = frame.f_globals.get("__name__", ""), place
            return part

        return add

    def _check_redefined(self, name: str, place: str) -> None:
        """Raise UserError unless a part is registered anew at the same place: its module is loaded again."""
        before = self.places.get(name)
        if before and (before == place or before.startswith("<") and place.startswith("<")):
            return
        holder = f"registered by {before}" if before else "built in"
        raise UserError(
            f"{self.key}={name} is {holder}, so {place or 'asr_exp'} cannot register it too; it has to take"
            " another name for its own."
        )

    def find(self, name: str, also: tuple[str, ...] = ()) -> Part:
        """The part of that name. also: further names that the message about an unknown one lists. Raises
        UserError for an unknown name.
        """
        self.check(name, also)
        if name not in self._parts:
            importlib.import_module(self._built_in[name])
        return self._parts[name]

    def check(self, name: str, also: tuple[str, ...] = ()) -> None:
        """Raise UserError for a name that no part has. also: as of `find`."""
        if name not in self:
            known = sorted({*self._parts, *self._built_in, *also})
            raise UserError(
                f"{self.key}={name} is not known.{nearest(name, known)} Known: {', '.join(known)}."
            )

    def make(self, part: str, *arguments: Any, **settings: Any) -> Any:
        """What the part of a name, which is a function or a class, gives for these arguments.

        Raises UserError for an unknown name, and for a plugin's part that does not take the arguments.
        """
        factory: Any = self.find(part)
        if part in self.places:
            try:
                inspect.signature(factory).bind(*arguments, **settings)
            except TypeError as error:
                raise UserError(
                    f"{self.key}={part}, registered by {self.places[part]}, cannot be called with what it is"
                    f" given: {error}. It is given {len(arguments)} arguments"
                    f"{''.join(f', {one}=...' for one in settings)}."
                ) from error
        return factory(*arguments, **settings)

    def expect(self, name: str, fits: bool, given: Any, wanted: str) -> None:
        """Raise UserError where what a plugin's part gives does not fit.

        Args:
            name: of the part; nothing is asked of a part of asr_exp.
            fits: whether it does.
            given: by the part.
            wanted: what it has to give, as the end of a sentence.
        """
        if not fits and name in self.places:
            shown = type(given).__name__ if given is not None else "None"
            raise UserError(
                f"{self.key}={name}, registered by {self.places[name]}, gave {shown}; it has to give"
                f" {wanted}."
            )


def _registering_frame() -> FrameType | None:
    """The frame outside asr_exp that is registering a part just now; None where asr_exp itself is."""
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "asr_exp":
        if frame.f_code.co_name == "<module>" or frame.f_back is None:
            return None
        frame = frame.f_back
    return frame


@contextmanager
def registering() -> Iterator[None]:
    """Take back what modules outside asr_exp have registered in the context, where it ends in an exception.

    Those modules are forgotten too, so that the next import of them registers their parts again.
    """
    before = {id(registry): set(registry.places) for registry in REGISTRIES}
    try:
        yield
    except BaseException:
        for registry in REGISTRIES:
            for name in registry.places.keys() - before.get(id(registry), set()):
                sys.modules.pop(registry.origins.pop(name), None)
                del registry.places[name], registry._parts[name]
        raise
