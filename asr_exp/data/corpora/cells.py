"""What a cell of a table means: a transcript, a name, a number of seconds, or that a value is missing.

JSON has null, booleans and numbers. pandas writes NaN where a value is missing, and 7.0 for a 7 beside it.
"""

import math
import os
import re
from typing import Any

from asr_exp.core.console import printable

# Texts that stand for a missing value. "null" is a number in German, and "None" may be said: as transcripts
# these are words.
_NOT_A_NUMBER = ("nan", "NaN", "<NA>")
_LONGEST_MISSING = max(map(len, _NOT_A_NUMBER))
_MISSING = frozenset(("", *_NOT_A_NUMBER, "None", "null", "NULL"))
_BROKEN = re.compile("[\x00\ud800-\udfff]")
_LARGEST = 2**53  # beyond it a float is no longer the integer that was meant


def transcript(value: Any, column: str) -> str:
    """A transcript. A whole number is its digits. Raises ValueError where there is none."""
    if isinstance(value, str) and len(value) > _LONGEST_MISSING and value.isprintable():  # most are
        return value
    if _is_missing(value):
        raise ValueError(f"it has no {column}")
    text = _as_text(value, column, "transcript")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(
            f"its {column} is the number {value}, and not a transcript, which is in quotation marks"
        )
    if text.strip() in _NOT_A_NUMBER:
        raise ValueError(f"its {column}, {text.strip()!r}, is not a transcript but a missing value")
    if broken := _BROKEN.search(text):
        raise ValueError(f"its {column} holds {printable(broken.group())}, which is not a character")
    return text


def name(value: Any, column: str) -> str | None:
    """A name, such as a speaker's; None where it is missing. A whole number is its digits, 7.0 too: so pandas
    writes a 7 in a column in which a value is missing. Raises ValueError for a boolean, a list or an object.
    """
    if isinstance(value, str):
        return None if value.strip() in _MISSING else value
    if _is_missing(value):
        return None
    return _as_text(value, column, "name")


def path(value: Any, column: str) -> str:
    """The name of a file; one that is not UTF-8 as `os.fsdecode` gives it. Raises ValueError where there is
    none, and for what no file can be called.
    """
    text = (name(value, column) or "").strip()
    if not text:
        raise ValueError(f"it has no {column}")
    if text.isprintable():
        return text
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"its {column}, '{printable(text)}', cannot be the name of a file")
    return text


def seconds(value: Any, column: str) -> float | None:
    """A time in seconds, 0 or more; None where it is missing. Raises ValueError for anything else."""
    if value is None or _is_missing(value) or isinstance(value, str) and value.strip() in _MISSING:
        return None
    try:
        time = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        time = math.nan
    if not 0 <= time < math.inf:
        raise ValueError(f"its {column}, {_shown(value)}, is not a number of seconds")
    return time


def _is_missing(value: Any) -> bool:
    return value is None or isinstance(value, float) and math.isnan(value)


def _as_text(value: Any, column: str, wanted: str) -> str:
    """A text as it is, a number as its digits. Raises ValueError for what is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        raise ValueError(f"its {column} is {_shown(value)}, and not a {wanted}")
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST
    return str(int(value)) if whole else str(value)


def _shown(value: Any) -> str:
    """A value for a message, as JSON has it."""
    if isinstance(value, dict | list | bytes):
        return {dict: "an object", list: "a list", bytes: "bytes"}[type(value)]
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) < 60 else text[:57] + "..."
