"""`export.push`: the hub's own client against a server that answers as the hub does, and keeps what it is
sent.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from harness import QUIET, SMALL, call, free_port, make_corpus, run

from asr_exp.runtime import hub

TOKEN = "hf_of_the_stand_in"


class StandIn(ThreadingHTTPServer):
    """The part of the hub that an upload talks to: repositories, LFS, commits.
    https://huggingface.co/docs/hub/api
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.refused: list[str] = []
        self.breaks_off = False


class _Answers(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.breaks_off:
            self.close_connection = True
            return None
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.refused.append(self.path)
            return self._say(401, {"error": "Invalid username or password."})
        repository = "/".join(
            self.path.removeprefix("/api/models").removesuffix(".git/info/lfs/objects/batch").split("/")[1:3]
        )
        if self.path == "/api/validate-yaml":
            return self._say(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if repository not in self.server.repositories:
            return self._say(404, {"error": "Repository not found"})
        if self.path.endswith("/preupload/main"):
            modes = {one["path"]: self._mode(one["path"]) for one in json.loads(body)["files"]}
            files = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
            ]
            return self._say(200, {"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            there = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}}}
                for one in asked
            ]
            return self._say(200, {"transfer": "basic", "objects": there})
        if self.path.endswith("/commit/main"):
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        return self._say(404, {"error": self.path})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = body
        self._say(200, {})

    def do_GET(self):
        self._say(404, {"error": self.path})

    @staticmethod
    def _mode(path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".onnx")) else "regular"

    def _create(self, asked):
        if asked["organization"] == "others":
            return self._say(
                403, {"error": "You don't have the rights to create a model under this namespace"}
            )
        name = f"{asked['organization']}/{asked['name']}"
        status = 409 if name in self.server.repositories else 200
        self.server.repositories.setdefault(name, {})
        self.server.private.setdefault(
            name, asked.get("visibility") == "private" or asked.get("private") is True
        )
        return self._say(status, {"url": f"{self.server.url}/{name}", "name": name})

    def _commit(self, repository, lines):
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                files[value["path"]] = self.server.objects[value["oid"]]
        address = f"{self.server.url}/{repository}/commit/{'0' * 40}"
        return self._say(200, {"success": True, "commitOid": "0" * 40, "commitUrl": address})

    def _say(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HF_TOKEN_PATH", str(tmp_path / "no-token")),
    ):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    hub.offline_where_unreachable.cache_clear()
    with StandIn() as standing:
        monkeypatch.setenv("HF_ENDPOINT", standing.url)
        thread = threading.Thread(target=standing.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield standing
        standing.shutdown()
        thread.join()
    hub.offline_where_unreachable.cache_clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    short = ["trainer.max_steps=2", "trainer.eval_every=1", "trainer.batch_seconds=4"]
    return run(*make_corpus(place / "data"), *SMALL, *short, *QUIET, cwd=place)


def test_a_folder_is_sent_as_it_is(server, trained, tmp_path, capsys):
    for private in ("true", "false"):  # the second time there is the repository already
        call(
            "export",
            f"run={trained}",
            "out=out",
            "export.push=lab/tones",
            f"export.private={private}",
            *QUIET,
            cwd=tmp_path,
        )
        (tmp_path / "out/notes.txt").write_text("not for everyone")
    assert f"{server.url}/lab/tones" in capsys.readouterr().out
    here = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    del here["notes.txt"]
    assert server.repositories == {"lab/tones": here} and server.private == {"lab/tones": True}
    assert (
        trained.name in server.messages[0]
        and 'model="lab/tones"' in here["README.md"].decode()
        and not server.refused
    )


def test_a_token_that_may_not_write(server, trained, tmp_path, capsys, monkeypatch):
    call("export", f"run={trained}", "out=out", "export.push=others/x", *QUIET, cwd=tmp_path, status=2)
    assert "the hub refuses (403): the token may not write there" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    call("export", f"run={trained}", "out=out", "export.push=lab/x", *QUIET, cwd=tmp_path, status=2)
    assert "the hub refuses (401)" in capsys.readouterr().err and server.refused == ["/api/repos/create"]
    assert (Path(tmp_path) / "out/model.safetensors").is_file()  # made, though not sent


def test_no_token(server, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    call("export", f"run={trained}", "out=out", "export.push=lab/x", *QUIET, cwd=tmp_path, status=2)
    assert "hf auth login" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_no_hub(server, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    call("export", f"run={trained}", "out=out", "export.push=lab/x", *QUIET, cwd=tmp_path, status=2)
    assert "cannot be reached" in capsys.readouterr().err


def test_a_hub_that_breaks_off(server, trained, tmp_path, capsys):
    server.breaks_off = True
    call("export", f"run={trained}", "out=out", "export.push=lab/x", *QUIET, cwd=tmp_path, status=2)
    assert "the transfer broke off" in capsys.readouterr().err and not server.repositories
