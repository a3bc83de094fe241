"""The report as one HTML file that needs nothing else: its script, its style and its data are in it, and it
asks for nothing.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "web"
SCRIPTS = ("page.js", "charts.js", "utterances.js", "closeup.js")


def html(contents: dict[str, Any], closeups: Sequence[dict[str, Any]]) -> str:
    """The page. contents: what `contents.py` gathers; closeups: of the utterances that it says can be heard.

    Texts stand in it as JSON alone; the policy of the page lets no script run but its own, and nothing be
    fetched.
    """
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    blocks = [
        _block("data", contents),
        *(_block(f"closeup-{number}", one) for number, one in enumerate(closeups)),
    ]
    parts = {
        "title": escape(contents["title"]),
        "style": (HERE / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "data": "\n".join(blocks),
    }
    template = (HERE / "page.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written


def _block(name: str, value: Any) -> str:
    """JSON in a page: without `<`, nothing in it can end the block or begin a tag."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    return f'<script type="application/json" id="{name}">{text}</script>'
