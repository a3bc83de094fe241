from typing import Any


def page(made: dict[str, Any]) -> str:
    return "x"
