"""An export sent to the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from asr_exp.core.errors import UserError
from asr_exp.runtime.hub import XET, diagnose, offline_where_unreachable


def require_token(repository: str) -> str:
    """The user's token of the hub.

    Raises UserError where there is none, and where `repository` is not a name that the hub admits (NAME, or
    ORGANISATION/NAME).
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"export.push={repository} cannot be a repository of the hub ({error}); give ORGANISATION/NAME."
        ) from None
    if token := get_token():
        return token
    raise UserError(
        f"export.push={repository} needs a token of the hub that may write: type `hf auth login`, or set"
        " HF_TOKEN."
    )


def push(folder: Path, files: Sequence[str], repository: str, private: bool, message: str) -> str:
    """Commit files of a folder to a repository of the hub, and return its address. The hub is that of
    HF_ENDPOINT.

    Args:
        folder: holds the files.
        files: their paths in it.
        repository: its id; it is created where there is none.
        private: whether a repository that is created is private.
        message: of the commit.

    Returns:
        The address of the repository.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    token = require_token(repository)
    offline_where_unreachable()
    for name in (name for name, value in XET.items() if os.environ.get(name) == value):
        del os.environ[name]  # a slow line may take as long as it likes to send
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        created = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=created.repo_id, folder_path=folder, allow_patterns=list(files), commit_message=message
        )
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: an upload that broke off
        reason = diagnose(error)[1] or " ".join(str(error).split())
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            reason = (
                f"the hub refuses ({error.response.status_code}): the token may not write there; give one"
                " with write access"
            )
        raise UserError(f"export.push={repository}: {reason}. {folder} is whole.") from error
    return str(created)
