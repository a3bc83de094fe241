"""The Hugging Face hub: whether it is within reach (its libraries try for half a minute and say so in eleven lines), and sending to it."""

import functools
import os
import socket
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from asr_exp.errors import UserError

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


def require_token(repository: str) -> str:
    """The user's token of the hub, once it is sure that `repository` can be the name of one (NAME, or ORGANISATION/NAME).

    Raises UserError where it cannot, and where there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as why:
        raise UserError(f"export.push={repository} cannot be a repository of the hub ({why}); give ORGANISATION/NAME.") from None
    if token := get_token():
        return token
    raise UserError(f"export.push={repository} needs a token of the hub that may write: type `hf auth login`, or set HF_TOKEN.")


def push(folder: Path, files: Sequence[str], repository: str, private: bool, message: str) -> str:
    """Make a model's repository where there is none and commit these files of a folder to it -> its address.

    Raises UserError where the hub cannot be reached, or refuses. The hub is that of HF_ENDPOINT.
    """
    token = require_token(repository)
    offline_where_unreachable()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    place = os.environ.get("HF_ENDPOINT")
    api = HfApi(endpoint=place, token=token)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, allow_patterns=list(files), commit_message=message)
    except HfHubHTTPError as why:
        status = why.response.status_code
        reason = "the token may not write there; give one with write access" if status in (401, 403) else str(why).strip().splitlines()[0]
        raise UserError(f"export.push={repository}: the hub refuses ({status}): {reason.rstrip('.')}.") from why
    except (HTTPError, OfflineModeIsEnabled, ConnectionError, RuntimeError) as why:  # RuntimeError: an upload that broke off
        told = f"{place or 'the hub'} cannot be reached, or HF_HUB_OFFLINE is set"
        raise UserError(f"export.push={repository}: {told}; {folder} is whole, give the same command again with network.") from why
    return str(made)


def failure(error: BaseException) -> str | None:  # placeholder until the hub's own lands
    return f"{type(error).__name__}"
