"""The Hugging Face hub: whether it can be reached, and why it refuses.

Its own libraries try for half a minute before they say that it cannot be reached, in eleven lines.
"""

import functools
import importlib
import logging
import os
import re
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

PATIENCE = 5.0  # seconds for a connection
_ANSWERED_IN = 30.0  # seconds within which the hub answers a request, or sends the next bytes of a file
# The same for Xet, by which the hub sends large files. By default it waits for five minutes before it tries
# again; with these settings, a server that sent nothing was given up after 92 s.
XET = {
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s",
    "HF_XET_CLIENT_READ_TIMEOUT": "15s",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "60s",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "3",
}
# The modules in which imported libraries keep the value that HF_HUB_OFFLINE had.
_SETTINGS = ("huggingface_hub.constants", "datasets.config")


def reachable(address: str) -> bool:
    """Whether a server accepts connections, or a proxy is set that may reach it."""
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
    """Have the hub's libraries use their cache alone where the hub cannot be reached, here and in processes
    that are started later.

    Returns whether it could not be reached; False where the user has set HF_HUB_OFFLINE.
    """
    _limit_waiting()
    # it logs each of its tries; our message says how they ended
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    set_by_user = os.environ.get("HF_HUB_OFFLINE", "0") != "0"
    unreached = not set_by_user and not reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if set_by_user or unreached:
        os.environ["HF_HUB_OFFLINE"] = "1"
        for name in _SETTINGS:
            if name in sys.modules:
                setattr(sys.modules[name], "HF_HUB_OFFLINE", True)  # noqa: B010
    return unreached


def _limit_waiting() -> None:
    """Limit the time that the hub's libraries wait for an answer. Some requests have no limit, and where a
    server accepts connections and sends nothing, they are tried six times.

    Uploads are not limited: the hub may take long to check a commit.
    """
    from huggingface_hub import constants, set_client_factory

    def limit(request: Any) -> None:
        if request.method not in ("HEAD", "GET"):
            return
        longest = (
            constants.HF_HUB_ETAG_TIMEOUT
            if request.method == "HEAD"
            else max(_ANSWERED_IN, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        )
        timeout = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            kind: min(timeout.get(kind) or longest, longest) for kind in ("connect", "read", "write", "pool")
        }

    if default_factory := _default_client_factory():

        def client() -> Any:
            created = default_factory()
            created.event_hooks = {**created.event_hooks, "request": [*created.event_hooks["request"], limit]}
            return created

        set_client_factory(client)
    for name, value in XET.items():
        os.environ.setdefault(name, value)


def _default_client_factory() -> Callable[[], Any] | None:
    """The function by which huggingface_hub creates its HTTP client, so that ours has its hooks.

    It is in the private module `huggingface_hub.utils._http`, as seen in huggingface_hub 2.4. Without
    it the answer is None, and requests wait as long as the library lets them.
    """
    try:
        from huggingface_hub.utils._http import default_client_factory
    except ImportError:
        return None
    return default_client_factory


# ------------------------------------------------------------------------------------------------------------
# why it refuses


def failure(error: BaseException) -> str | None:
    """Why the hub did not send a file or a data set: a clause that follows 'ID cannot be loaded: ', without a
    full stop.

    None where neither `error` nor any of its causes comes from the hub. Types and the HTTP status decide,
    never the text of an error.
    """
    away, reason = diagnose(error)
    return f"it is not in the local cache, and {reason}" if away else reason


def unreachable(error: BaseException) -> bool:
    """Whether the error is that the hub could not be reached over the internet."""
    return diagnose(error)[0]


def refusal(repository: str, kind: str, revision: str | None = None, file: str | None = None) -> str | None:
    """Why the hub refuses a repository, or a file of it. The hub is asked again, for an error of a library
    that has not kept the hub's answer.

    kind: `model` or `dataset`. None where the hub does not refuse.
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
    """An error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def diagnose(error: BaseException) -> tuple[bool, str | None]:
    """Whether the hub could not be reached; and the clause of `failure`, None for an error not of the hub."""
    from huggingface_hub import constants, errors

    # httpx, or the library that has taken its place
    http: Any = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
    chain = list(causes(error))
    for one in chain:  # the last error comes first: the one that the retries ended with
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
            if isinstance(one, http.ConnectTimeout | http.PoolTimeout) or _is_api_request(one):
                return True, f"{_place()} does not answer; try again later"
            return False, _BROKE_OFF
        if _is_download_error(one):
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
    """What an error status of the hub, a HfHubHTTPError, means."""
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
    message = " ".join((error.server_message or "").split())
    return f"the hub answers {status}" + (f": {message.rstrip('.')}" if message else "")


def _is_api_request(error: Any) -> bool:
    """Whether a connection failed during a request about a repository, and not for a file's content."""
    try:
        request = error.request
    except RuntimeError:  # the error has no request
        return False
    return request.method == "HEAD" or (request.method == "GET" and "/api/" in request.url.path)


def _is_download_error(error: BaseException) -> bool:
    """Whether an error was raised during a download, by a file that came short or by the library of Xet,
    which have no types of their own.
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
