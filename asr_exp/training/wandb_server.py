"""The server of Weights & Biases: whether the user has a key for it, and whether it answers."""

import contextlib
import netrc
import os
import ssl
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

WANDB_SERVER = "https://api.wandb.ai"


def wandb_answers() -> bool:
    """Whether W&B's server answers at all, within three seconds."""
    try:
        with urlopen(os.environ.get("WANDB_BASE_URL", WANDB_SERVER), timeout=3):
            return True
    except HTTPError as why:
        return why.code < 500
    except (OSError, ValueError, HTTPException) as why:  # what has a certificate is there
        return isinstance(getattr(why, "reason", None), ssl.SSLError)


def wandb_key() -> bool:
    """Whether W&B would find a key: in the environment, or in a netrc file under its server's name.

    wandb has no public function that tells in every release from 0.20 on: `wandb.login` there asks at the
    terminal, and its `prompt=False` is of later releases (0.31 has it).
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_SERVER)).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if name and netrc.netrc(os.path.expanduser(name)).authenticators(server):
                return True
    return False
