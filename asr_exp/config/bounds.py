"""The bounds that the schema gives a key: numbers, choices, and names of folders."""

import math
import re
from collections.abc import Iterator
from typing import Any

from asr_exp.core.console import printable
from asr_exp.core.errors import nearest

LONGEST_NAME = 200  # bytes; file systems take 255, and some files have the name of a sweep and more
LARGEST = 2**63 - 1  # what a torch tensor of whole numbers holds


def bound_problems(name: str, value: Any, bounds: Any) -> Iterator[str]:
    """How a value misses its key's bounds: choices, pattern, minimum, maximum, above, word, folder; see
    key.py.
    """
    if "folder" in bounds and (problem := _no_folder(str(value))):
        yield (
            f"{name}={printable(str(value))[:60]} {problem}; give the name of one folder, such as"
            f" {bounds['folder']}."
        )
    if "word" in bounds:
        if value == bounds["word"]:
            return
        if isinstance(value, str | bool):
            yield f"{name}={value} is neither {bounds['word']} nor a number; give one of them."
            return
    if "choices" in bounds and not (
        re.fullmatch(bounds["pattern"], str(value)) if "pattern" in bounds else value in bounds["choices"]
    ):
        yaml = " YAML reads on, off, yes and no as true and false; put the word in quotes." * (
            str(value) in ("True", "False")
        )
        yield (
            f"{name}={value} is not one of"
            f" {', '.join(bounds['choices'])}.{nearest(value, bounds['choices'])}{yaml}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name}={value} is not a finite number; give one."
    if isinstance(value, int) and abs(value) > LARGEST:
        yield f"{name}={value} is too large for a whole number: it must be at most {LARGEST}."
    if "minimum" in bounds and value < bounds["minimum"]:
        yield f"{name}={value} is too small: it must be at least {bounds['minimum']}."
    if "maximum" in bounds and value > bounds["maximum"]:
        yield f"{name}={value} is too large: it must be at most {bounds['maximum']}."
    if "above" in bounds and value <= bounds["above"]:
        yield f"{name}={value} is too small: it must be above {bounds['above']}."


def _no_folder(name: str) -> str:
    """Why a name is not that of one new folder; '' where it is. It must not lead out of the folder above."""
    if "/" in name or "\\" in name:
        return "is a path, and not a name"
    if not name.strip(". "):
        return "is not the name of a folder"
    if printable(name) != name:
        return "holds characters that cannot be printed"
    if len(name.encode()) > LONGEST_NAME:
        return f"is longer than the {LONGEST_NAME} bytes that a folder's name may have"
    return ""
