"""`--json`: a command's answer as the one JSON document on standard output; all else goes to stderr."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from asr_exp.core.exit_status import rank

COMMANDS = ("check", "compare", "evaluate", "table")  # that have such an answer
# The environment variable that names the file which the document goes through: with several devices it is
# another process than the first that has the answer.
FILE = "ASR_EXP_JSON"


def give_json(command: str, document: Mapping[str, Any]) -> None:
    """Hand over the answer of a command, where --json asked for it. Numbers that JSON has no word for (NaN,
    infinities) become null.
    """
    if (path := os.environ.get(FILE)) and rank() == 0:
        content = json.dumps(
            _plain({"command": command, **document}), indent=2, ensure_ascii=True, allow_nan=False
        )
        Path(path).write_text(content + "\n", encoding="utf-8")


@contextmanager
def json_on_stdout() -> Iterator[None]:
    """Send what is printed meanwhile, by this process and those that it starts, to standard error; at the
    end print the document that `give_json` was given, if any, on standard output.
    """
    import tempfile  # it takes a while, and few commands want it

    out = sys.stdout
    out.flush()
    handle, path = tempfile.mkstemp(prefix="asr_exp-", suffix=".json")
    os.close(handle)
    before = os.environ.get(FILE)
    os.environ[FILE] = path
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.environ.pop(FILE)
        os.environ.update({FILE: before} if before else {})
        text = Path(path).read_text(encoding="utf-8")
        os.unlink(path)
    out.write(text)
    out.flush()


def _plain(value: Any) -> Any:
    """A value of the types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):  # a number of numpy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
