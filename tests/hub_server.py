"""A stand-in of the Hugging Face hub on this machine: folders as model and dataset repositories, and every
way in which the hub refuses.

    hub.add_model("lab/tones", folder)                   # folder/config.json is lab/tones' config.json
    hub.add_dataset("lab/speech", folder, revision="v1")
    hub.fail("lab/tones", status=503)                    # every request for the repository; also file=
    hub.fail("lab/tones", status=403, code="GatedRepo")
    hub.stall("lab/tones", "model.safetensors")          # half of the file comes, then nothing
    hub.break_off("lab/tones", "model.safetensors")      # half of the file comes, then the line is cut
    hub.hang("lab/tones")                                # the connection is taken, no answer; also file=
    hub.truncate("lab/tones", "model.safetensors")       # half of the file comes as if that were all
    hub.heal("lab/tones")
    hub.fetched("lab/tones")                             # the files whose contents were asked for, in order

The fixture `hub` (conftest.py) serves one and points the hub's libraries of this process, and of those it
starts, to it. https://huggingface.co/docs/hub/api
"""

import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

_ADDRESS = re.compile(
    r"/(?P<api>api/models/|api/datasets/|datasets/|)(?P<repository>[^/]+/[^/]+)(?:/(?P<what>[^/]+)(?:/(?P<rest>.*))?)?"
)


@dataclass
class Refusal:
    """What is answered in place of a repository, or of one of its files. status None: half of a file, and
    `then` silence or the end.
    """

    file: str | None
    status: int | None
    code: str | None = None
    headers: dict[str, str] | None = None
    then: str = ""


class HubServer(ThreadingHTTPServer):
    """`requests` are the (method, path) it got, in order; the path as it was sent, without the query."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str]] = []
        self.revisions: dict[str, dict[str, Path]] = {}  # repository -> revision -> its folder
        self.refusals: dict[str, list[Refusal]] = {}
        self.over = threading.Event()  # lets stalled answers go

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that did not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def add_model(self, repository: str, folder: Path, revision: str = "main") -> str:
        """Serve the files of a folder (read at each request) as a revision of OWNER/NAME -> the revision's
        commit.
        """
        self.revisions.setdefault(repository, {})[revision] = Path(folder)
        return self.commit(repository, revision)

    def add_dataset(self, repository: str, folder: Path, revision: str = "main") -> str:
        """The same of a dataset's repository."""
        return self.add_model(f"datasets/{repository}", folder, revision)

    def fail(
        self,
        repository: str,
        status: int,
        file: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer with this status, and the hub's X-Error-Code (GatedRepo, RepoNotFound, EntryNotFound,
        RevisionNotFound).
        """
        self.refusals.setdefault(repository, []).append(Refusal(file, status, code, headers))

    def stall(self, repository: str, file: str) -> None:
        self.refusals.setdefault(repository, []).append(Refusal(file, None, then="stall"))

    def break_off(self, repository: str, file: str) -> None:
        self.refusals.setdefault(repository, []).append(Refusal(file, None, then="close"))

    def hang(self, repository: str, file: str | None = None) -> None:
        self.refusals.setdefault(repository, []).append(Refusal(file, None, then="hang"))

    def truncate(self, repository: str, file: str) -> None:
        self.refusals.setdefault(repository, []).append(Refusal(file, None, then="end"))

    def heal(self, repository: str) -> None:
        self.refusals.pop(repository, None)

    def fetched(self, repository: str) -> list[str]:
        """The files of a repository, a model's or a dataset's, whose contents were asked for."""
        asked = (path for method, path in self.requests if method == "GET")
        found = (
            re.fullmatch(rf"/(?:datasets/)?{re.escape(repository)}/resolve/[^/]+/(.*)", path)
            for path in asked
        )
        return [match[1] for match in found if match]

    def commit(self, key: str, revision: str) -> str:
        """The 40 digits of a revision: those of its files' contents."""
        digest = hashlib.sha1(revision.encode())
        for name, path in files(self.revisions[key][revision]).items():
            digest.update(name.encode() + path.read_bytes())
        return digest.hexdigest()

    def find(self, key: str, revision: str) -> tuple[Path, str] | None:
        """A revision, by name or commit -> (its folder, its commit)."""
        for name, folder in self.revisions[key].items():
            commit = self.commit(key, name)
            if revision in (name, commit):
                return folder, commit
        return None


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


class _Answers(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        match = _ADDRESS.fullmatch(urlsplit(self.path).path)
        if match is None:
            return self._refuse(404, None)
        repository = match["repository"]
        key = f"datasets/{repository}" if "datasets" in match["api"] else repository
        parts = [unquote(part) for part in (match["rest"] or "").split("/")]
        name = "/".join(parts[1:])
        for refusal in self.server.refusals.get(repository, []):
            if refusal.file in (None, name):
                if refusal.status:
                    return self._refuse(refusal.status, refusal.code, refusal.headers)
                if refusal.then == "hang":
                    self.server.over.wait()
        if key not in self.server.revisions:
            return self._refuse(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        if match["what"] == "auth-check":
            return self._json({})
        found = self.server.find(key, parts[0] or "main")
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        folder, commit = found
        there = files(folder)
        if match["what"] == "resolve":
            return self._file(repository, name, there.get(name), commit)
        if match["what"] in (None, "revision"):
            siblings = [{"rfilename": one} for one in there]
            return self._json(
                {
                    "id": repository,
                    "sha": commit,
                    "private": False,
                    "gated": False,
                    "tags": [],
                    "downloads": 0,
                    "siblings": siblings,
                }
            )
        if match["what"] == "tree":
            return self._tree(
                there, name, "true" in parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower()
            )
        if match["what"] == "paths-info":
            asked = parse_qs(body.decode()).get("paths", [])
            return self._json([entry for entry in _entries(there, "", True) if entry["path"] in asked])
        return self._refuse(404, None)

    do_HEAD = do_POST = do_GET

    def _tree(self, there: dict[str, Path], under: str, recursive: bool) -> None:
        prefix = f"{under}/" if under else ""
        if under and not any(one.startswith(prefix) for one in there):
            return self._refuse(404, "EntryNotFound")
        return self._json(_entries(there, prefix, recursive))

    def _file(self, repository: str, name: str, path: Path | None, commit: str) -> None:
        if path is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        body = path.read_bytes()
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        broken = [
            one.then
            for one in self.server.refusals.get(repository, [])
            if one.status is None and one.file == name
        ]
        sent = body[start : len(body) // 2] if broken and self.command == "GET" else body[start:]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", f'"{_digest(body)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(sent) if broken == ["end"] else len(body) - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.wfile.write(sent)
        if broken == ["stall"]:
            self.server.over.wait()
        self.close_connection = bool(broken)
        return None

    def _json(self, content: object) -> None:
        self._say(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
        self._say(status, b"{}", {**({"X-Error-Code": code} if code else {}), **(headers or {})})

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(there: dict[str, Path], prefix: str, recursive: bool) -> list[dict[str, object]]:
    """What a tree listing says of the files and folders under a prefix."""
    changed = {"id": "0" * 40, "title": "Add files", "date": "2024-01-01T00:00:00.000Z"}
    entries: dict[str, dict[str, object]] = {}
    for name, path in there.items():
        if not name.startswith(prefix):
            continue
        parts = name[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            inside = prefix + "/".join(parts[:depth])
            if depth == 1 or recursive:
                entries[inside] = {
                    "type": "directory",
                    "oid": _digest(inside.encode()),
                    "size": 0,
                    "path": inside,
                    "lastCommit": changed,
                }
        if len(parts) == 1 or recursive:
            body = path.read_bytes()
            entries[name] = {
                "type": "file",
                "oid": _digest(body),
                "size": len(body),
                "path": name,
                "lastCommit": changed,
            }
    return list(entries.values())


def _digest(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def point_to(server: HubServer, home: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the hub's libraries, here and in the processes to come, ask this server and keep what they fetch
    in a folder.
    """
    import datasets.config
    import huggingface_hub.constants
    from huggingface_hub import hf_api

    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }.items():
        patch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        patch.delenv(name, raising=False)
    here = huggingface_hub.constants  # read from the environment once, when it is imported
    patch.setattr(hf_api.api, "endpoint", server.url)
    patch.setattr(here, "ENDPOINT", server.url)
    patch.setattr(
        here, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    patch.setattr(here, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(here, "HF_TOKEN_PATH", str(home / "token"))
    there = datasets.config
    patch.setattr(there, "HF_ENDPOINT", server.url)
    patch.setattr(there, "HUB_DATASETS_URL", server.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    patch.setattr(there, "HF_DATASETS_CACHE", home / "datasets")
    patch.setattr(there, "DOWNLOADED_DATASETS_PATH", home / "datasets/downloads")
    _set_offline(False, patch)


def go_offline(patch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE=1, here and in the processes to come."""
    patch.setenv("HF_HUB_OFFLINE", "1")
    _set_offline(True, patch)


def _set_offline(value: bool, patch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub

    from asr_exp.runtime.hub import offline_where_unreachable

    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", value)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", value)
    huggingface_hub.HfFileSystem.clear_instance_cache()  # what they have listed
    offline_where_unreachable.cache_clear()
