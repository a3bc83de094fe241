"""The Hugging Face hub: whether it is within reach (its libraries try for half a minute and say so in eleven
lines), why it refuses, and sending to it."""

import functools
import importlib
import logging
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

PATIENCE = 5.0  # seconds for a connection
_ANSWERED_IN = 30.0  # seconds within which the hub answers a question, or sends the next bytes of a file
# The same of Xet, by which the hub sends large files: of itself it waits for five minutes before it tries
# again. With these, one that keeps silent was given up after 92 s.
XET = {
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s",
    "HF_XET_CLIENT_READ_TIMEOUT": "15s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "60s",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
}
# Where a library that is imported already keeps what it has read of HF_HUB_OFFLINE.
_SETTINGS = ("huggingface_hub.constants", "datasets.config")


def reachable(address: str) -> bool:
    """Whether a server answers, or a proxy may know the way to it."""
    url = urlsplit(address)
    if urllib.request.getproxies().get(url.scheme):
        return True
    try:
        socket.create_connection(
            (url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), PATIENCE
        ).close()
    except OSError:
        return False
    return True


@functools.cache
def offline_where_unreachable() -> bool:
    """Have the hub's libraries go by their cache alone, here and in the processes to come, where the hub
    cannot be reached.

    Whether that is so; False where it is HF_HUB_OFFLINE that says it.
    """
    _limit_waiting()
    # each of its tries is a line; what they end with is told
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    asked = os.environ.get("HF_HUB_OFFLINE", "0") != "0"
    unreached = not asked and not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if asked or unreached:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in _SETTINGS:
            if name in sys.modules:
                setattr(sys.modules[name], "HF_HUB_OFFLINE", True)  # noqa: B010
    return unreached


def _limit_waiting() -> None:
    """Have no request of the hub's libraries wait for ever, as some do, or for minutes: where a server takes
    connections and keeps silent, they try six times before they say so.

    What is sent to the hub is left alone: it may have to think about a commit.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def limit(request: Any) -> None:
        if request.method not in ("HEAD", "GET"):
            return
        most = (
            constants.HF_HUB_ETAG_TIMEOUT
            if request.method == "HEAD"
            else max(_ANSWERED_IN, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        )
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: min(asked.get(kind) or most, most) for kind in ("connect", "read", "write", "pool")
        }

    def client() -> Any:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], limit]}
        return made

    set_client_factory(client)
    for name, value in XET.items():
        os.environ.setdefault(name, value)


# ------------------------------------------------------------------------------------------------------------
# why it does not give what was asked for


def failure(error: BaseException) -> str | None:
    """Why the hub did not give what was asked for, as a clause to put after 'ID cannot be loaded: ', without
    a full stop.

    None where `error`, with all that is behind it, is not the hub's. It goes by types and by HTTP status,
    never by what a text says.
    """
    away, reason = diagnose(error)
    return f"it is not in the local cache, and {reason}" if away else reason


def unreachable(error: BaseException) -> bool:
    """Whether it is for want of a network that the hub did not give what was asked for."""
    return diagnose(error)[0]


def refusal(repository: str, kind: str, revision: str | None = None, file: str | None = None) -> str | None:
    """Why the hub does not give a repository, or a file of it, asked anew: `failure` where a library has not
    kept the hub's answer.

    kind: `model` or `dataset`. None where the hub would give it.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    place = os.environ.get("HF_ENDPOINT")
    try:
        if file is None:
            HfApi(endpoint=place).auth_check(repository, repo_type=kind)
        else:
            get_hf_file_metadata(
                hf_hub_url(repository, file, repo_type=kind, revision=revision, endpoint=place)
            )
    except Exception as error:
        return failure(error)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and, one after the other, those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def diagnose(error: BaseException) -> tuple[bool, str | None]:
    """Whether the hub could not be asked at all, and why it does not give what was asked for (None: the error
    is not the hub's).
    """
    from huggingface_hub import constants, errors

    # httpx, or what has taken its place
    http: Any = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
    chain = list(causes(error))
    for one in chain:  # the last that happened comes first: what is told of is what the retries ended with
        if isinstance(one, errors.HfHubHTTPError):
            return False, _answer(one)
        if isinstance(one, errors.FileMetadataError):
            return False, f"{_place()} does not answer as a hub does; check HF_ENDPOINT"
        if isinstance(one, errors.HFValidationError):
            return False, "that is neither a folder nor the id of a repository, OWNER/NAME"
        if isinstance(one, errors.OfflineModeIsEnabled):
            break
        if isinstance(one, http.TransportError):
            if isinstance(one, http.ConnectError | http.ProxyError):
                break
            if isinstance(one, http.ConnectTimeout | http.PoolTimeout) or _is_a_question(one):
                return True, f"{_place()} does not answer; try again later"
            return False, _BROKE_OFF
        if _is_of_a_download(one):
            return False, _BROKE_OFF
    else:
        if not any(
            isinstance(one, errors.LocalEntryNotFoundError | ConnectionError | TimeoutError) for one in chain
        ):
            return False, None
    if constants.HF_HUB_OFFLINE and not offline_where_unreachable():
        return True, "HF_HUB_OFFLINE is set; unset it, and give the same command again"
    return True, f"{_place()} cannot be reached; connect, and give the same command again"


_BROKE_OFF = (
    "the transfer broke off, or nothing more came; give the same command again: files that came whole are"
    " kept"
)


def _answer(error: Any) -> str:
    """What the hub's answer to a request, a HfHubHTTPError, means."""
    from huggingface_hub import errors

    status, headers = error.response.status_code, error.response.headers
    if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError too
        return (
            "its authors give it to those who accept its terms; open its page on the hub, accept them, and"
            " type `hf auth login`"
        )
    known = isinstance(error, errors.RevisionNotFoundError | errors.RemoteEntryNotFoundError)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404 and not known:
        return (
            "it is not on the hub, or it is private; check the id, or type `hf auth login` to show that you"
            " may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision; give a branch, a tag or a commit that its page on the hub shows"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        file = unquote(urlsplit(str(error.response.url)).path).partition("/resolve/")[2].partition("/")[2]
        return f"it has no file {file}" if file else "it lacks a file or folder that is needed"
    if isinstance(error, errors.DisabledRepoError):
        return "the hub has disabled it"
    if status in (401, 403):
        return (
            f"the hub refuses ({status}): it is private, or given to those alone who accept its terms; open"
            " its page on the hub, accept them where it asks for that, and type `hf auth login`"
        )
    if status == 429:
        seconds = re.search(r"^(\d+)$", headers.get("Retry-After", "")) or re.search(
            r"\bt=(\d+)", headers.get("RateLimit", "")
        )
        when = f"in {seconds[1]} s" if seconds else "in some minutes"
        return (
            f"the hub asks to wait (429); try again {when}, or type `hf auth login`: it lets those who are"
            " logged in ask more often"
        )
    if status >= 500:
        return f"the hub answers {status}, which is its own trouble; try again later"
    said = " ".join((error.server_message or "").split())
    return f"the hub answers {status}" + (f": {said.rstrip('.')}" if said else "")


def _is_a_question(error: Any) -> bool:
    """Whether an error of the connection is that of a request about a repository, not of one for a file's
    contents.
    """
    try:
        request = error.request
    except RuntimeError:  # it knows of none
        return False
    return request.method == "HEAD" or (request.method == "GET" and "/api/" in request.url.path)


def _is_of_a_download(error: BaseException) -> bool:
    """Whether it was raised in the midst of a download: by a file that came short, or by the library of Xet,
    without types of their own.
    """
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    inside = bool(trace) and trace.tb_frame.f_globals.get("__name__") == "huggingface_hub.file_download"  # type: ignore[union-attr]
    return (
        inside
        and type(error) in (OSError, ConnectionError, TimeoutError, RuntimeError)
        and not getattr(error, "errno", None)
    )


def _place() -> str:
    return os.environ.get("HF_ENDPOINT") or "the hub"


# ------------------------------------------------------------------------------------------------------------
# sending to it
