"""What a key of the config is: a dataclass field with its help and its bounds."""

from dataclasses import field
from typing import Any


def key(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field with its help line and bounds: `minimum`, `maximum`, `above`, `choices`; the regular
    expression `pattern` where the choices stand for more than themselves; the `word` that may stand in
    the place of a number; and `folder`, an example, where the value becomes a folder's name.
    """
    metadata = {"help": help, **bounds}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: default.copy(), metadata=metadata)
    return field(default=default, metadata=metadata)
