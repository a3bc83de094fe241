"""Whether the Hugging Face hub is within reach: its libraries try for half a minute and say so in eleven lines."""

import functools
import os
import socket
import sys
import urllib.request
from urllib.parse import urlsplit

PATIENCE = 5.0  # seconds for a connection
# Where a library that is imported already keeps what it has read of HF_HUB_OFFLINE.
_SETTINGS = ("huggingface_hub.constants", "datasets.config")


def reachable(address: str) -> bool:
    """Whether a server answers, or a proxy may know the way to it."""
    url = urlsplit(address)
    if urllib.request.getproxies().get(url.scheme):
        return True
    try:
        socket.create_connection((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), PATIENCE).close()
    except OSError:
        return False
    return True


@functools.cache
def offline_where_unreachable() -> None:
    """Have the hub's libraries go by their cache alone, here and in the processes to come, where the hub cannot be reached."""
    if not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in _SETTINGS:
            if name in sys.modules:
                setattr(sys.modules[name], "HF_HUB_OFFLINE", True)  # noqa: B010
