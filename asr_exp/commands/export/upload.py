"""An export sent to the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from asr_exp.core.errors import UserError
from asr_exp.runtime.hub import XET, diagnose, offline_where_unreachable


def require_token(repository: str) -> str:
    """The user's token of the hub, once it is sure that `repository` can be the name of one (NAME, or
    ORGANISATION/NAME).

    Raises UserError where it cannot, and where there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as why:
        raise UserError(
            f"export.push={repository} cannot be a repository of the hub ({why}); give ORGANISATION/NAME."
        ) from None
    if token := get_token():
        return token
    raise UserError(
        f"export.push={repository} needs a token of the hub that may write: type `hf auth login`, or set"
        " HF_TOKEN."
    )


def push(folder: Path, files: Sequence[str], repository: str, private: bool, message: str) -> str:
    """Make a model's repository where there is none and commit these files of a folder to it -> its address.

    Raises UserError where the hub cannot be reached, or refuses. The hub is that of HF_ENDPOINT.
    """
    token = require_token(repository)
    offline_where_unreachable()
    for name in (name for name, value in XET.items() if os.environ.get(name) == value):
        del os.environ[name]  # a slow line may take as long as it likes to send
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, allow_patterns=list(files), commit_message=message
        )
    except (HTTPError, OSError, RuntimeError) as why:  # RuntimeError: an upload that broke off
        reason = diagnose(why)[1] or " ".join(str(why).split())
        if isinstance(why, HfHubHTTPError) and why.response.status_code in (401, 403):
            reason = (
                f"the hub refuses ({why.response.status_code}): the token may not write there; give one with"
                " write access"
            )
        raise UserError(f"export.push={repository}: {reason}. {folder} is whole.") from why
    return str(made)
