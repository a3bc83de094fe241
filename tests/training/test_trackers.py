"""metrics.jsonl through kills; Weights & Biases without an account; TensorBoard read back."""

import json
import logging
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from asr_exp.core.errors import UserError
from asr_exp.training import trackers
from asr_exp.training.metrics_file import MetricsFile
from asr_exp.training.trackers import make_tracker

CONFIG = {"seed": 1, "model": {"name": "tiny", "lr": 0.1}, "none": None}


def sound(seconds=0.1):
    return (np.sin(np.arange(int(seconds * 16000)) / 10) * 10000).astype(np.int16)


def tracker_of(name, folder, **settings):
    return make_tracker(
        name, folder=folder, run_id="abc123", run_name="a run", config=CONFIG, project="asr_exp", **settings
    )


def table(audio=True):
    one = {
        "id": "u1",
        "reference": "a b",
        "hypothesis": "a",
        "rate": 0.5,
        "audio": sound() if audio else None,
        "sample_rate": 16000,
    }
    return [one, {**one, "id": "u2", "reference": "übung | x", "audio": None}]


# ------------------------------------------------------------------------------------------------------------
# metrics.jsonl


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_on_the_disk_as_soon_as_it_is_written(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    metrics.write([{"step": 1, "train/loss": 2.5}, {"step": 2, "train/loss": None}])
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss": 2.5},
        {"step": 2, "train/loss": None},
    ]
    metrics.write([])
    metrics.write([{"step": 2, "dev/wer": 0.5}])
    assert metrics.lines == len(lines(tmp_path / "metrics.jsonl")) == 3
    metrics.close()


def test_it_is_cut_back_to_what_the_checkpoint_knew_and_written_again_alike(tmp_path):
    path, rows = tmp_path / "metrics.jsonl", [{"step": s, "train/loss": 1 / s} for s in range(1, 11)]
    metrics = MetricsFile(path, 0)
    metrics.write(rows[:6])
    saved = metrics.lines  # a checkpoint
    metrics.write(rows[6:9])
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 10, "train/lo')  # killed while it wrote
    again = MetricsFile(path, saved)
    assert lines(path) == rows[:6] and again.lines == 6
    again.write(rows[6:])
    again.close()
    whole = MetricsFile(tmp_path / "whole.jsonl", 0)
    whole.write(rows)
    whole.close()
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "whole.jsonl"]


def test_a_run_that_starts_afresh_keeps_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# ------------------------------------------------------------------------------------------------------------
# Weights & Biases


@pytest.fixture
def no_account(tmp_path, monkeypatch):
    """No key, no login, no mode; and nothing of what W&B writes lands in the real home."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def records(folder):
    """The records of an offline run: a LevelDB log, blocks of 32 KiB after 7 bytes of heading, records in
    pieces of (crc, length, kind).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    at = 7
    whole = b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, last = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6] in (1, 4)
        if at + 7 + length > len(data):
            return  # not written yet
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if last:
            yield Record.FromString(whole)
            whole = b""


def test_without_a_key_wandb_records_offline_and_says_so_in_one_line(
    tmp_path, no_account, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("asr_exp"), "propagate", True)
    with caplog.at_level(logging.INFO, "asr_exp"):
        tracker = tracker_of("wandb", tmp_path / "run", tags=["x"])
    said = [r.getMessage() for r in caplog.records if r.name.startswith("asr_exp")]
    assert len(said) == 1 and "offline" in said[0] and "wandb login" in said[0] and "\n" not in said[0]
    tracker.log({"train/loss": 2.5, "train/lr": 0.1}, 1)
    tracker.log({"dev/wer": 0.75}, 2)
    tracker.table("dev/hypotheses", table(), 2)
    with caplog.at_level(logging.INFO, "asr_exp"):
        tracker.finish({"test/wer": 0.5}, failed=False)
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert caplog.records[-1].getMessage().endswith(f"wandb sync {os.path.relpath(folder)}")
    found, deadline = [], time.monotonic() + 20
    # W&B's own process writes it
    while not any(r.HasField("exit") for r in found) and time.monotonic() < deadline:
        time.sleep(0.05)
        found = list(records(tmp_path / "run"))
    (run,) = [r.run for r in found if r.HasField("run")]
    assert (run.run_id, run.display_name, run.project, list(run.tags)) == (
        "abc123",
        "a run",
        "asr_exp",
        ["x"],
    )
    assert {c.key: json.loads(c.value_json) for c in run.config.update if c.key != "_wandb"} == CONFIG
    history = [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
        for r in found
        if r.HasField("history")
    ]
    assert [(h["_step"], h.get("train/loss"), h.get("dev/wer")) for h in history] == [
        (1, 2.5, None),
        (2, None, 0.75),
    ]
    assert history[1]["dev/hypotheses.nrows"] == 2
    sent = [c for r in found for c in r.artifact.manifest.contents]  # what `wandb sync` will upload
    (heard,) = [soundfile.read(c.local_path, dtype="int16") for c in sent if c.path.endswith(".wav")]
    assert heard[1] == 16000 and np.abs(heard[0] - sound()).max() <= 1
    (shown,) = [
        json.loads(Path(c.local_path).read_text(encoding="utf-8"))
        for c in sent
        if c.path.endswith(".table.json")
    ]
    assert shown["columns"] == ["id", "reference", "hypothesis", "rate", "audio"]
    assert [row[:4] for row in shown["data"]] == [["u1", "a b", "a", 0.5], ["u2", "übung | x", "a", 0.5]]


def test_a_key_or_a_mode_of_the_users_decides(tmp_path, no_account, monkeypatch):
    import wandb

    asked = []
    monkeypatch.setattr(wandb, "init", lambda **how: asked.append(how))

    def mode():
        tracker_of("wandb", tmp_path / "run")
        return asked[-1]["mode"], asked[-1]["resume"]

    assert mode() == ("offline", None)
    (tmp_path / "home").mkdir(exist_ok=True)
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine elsewhere login user password x\n")
    assert mode()[0] == "offline"
    netrc.write_text("machine api.wandb.ai login user password x\n")
    assert mode() == ("online", "allow")
    netrc.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert mode()[0] == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() == ("disabled", None)


def hanging():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(50)
    return server  # it takes connections and never answers


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_error(500)

    do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


def refusing():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.socket


def closed():
    server = hanging()
    address = server.getsockname()
    server.close()
    return SimpleNamespace(getsockname=lambda: address)


@pytest.mark.parametrize("server", [hanging, refusing, closed])
def test_a_key_and_no_server_is_recorded_offline(tmp_path, no_account, caplog, monkeypatch, server):
    held = server()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
    monkeypatch.setattr(trackers, "INIT_SECONDS", 3.0)
    monkeypatch.setattr(logging.getLogger("asr_exp"), "propagate", True)
    began = time.monotonic()
    with caplog.at_level(logging.INFO, "asr_exp"):
        tracker = tracker_of("wandb", tmp_path / "run")
        tracker.log({"train/loss": 2.5}, 1)
        tracker.table("dev/hypotheses", table(), 1)
        tracker.finish({"test/wer": 0.5}, failed=False)
    assert time.monotonic() - began < 60  # a loaded machine; alone it takes 4 s
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    first, last = [r.getMessage() for r in caplog.records if r.name.startswith("asr_exp")]
    assert "W&B cannot be reached" in first and first.endswith(f"wandb sync {os.path.relpath(folder)}")
    assert "recorded this run offline" in last and "\n" not in first + last


class Broken:
    """A run of W&B's all of whose calls raise; finish hangs where it should."""

    offline, dir = False, "x/files"

    def __init__(self, hangs=False):
        self.hangs, self.summary = hangs, {}

    def log(self, *_, **__):
        raise ConnectionResetError("Connection lost")

    def finish(self, **_):
        if self.hangs:
            time.sleep(1000)
        raise RuntimeError("the service is gone\nsixty more lines")


def test_whatever_wandb_raises_the_run_goes_on(tmp_path, no_account, caplog, monkeypatch):
    import wandb

    monkeypatch.setattr(logging.getLogger("asr_exp"), "propagate", True)
    monkeypatch.setattr(trackers, "GRACE_SECONDS", 0.2)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    runs = iter([Broken(), Broken(), Broken(hangs=True)])

    def said(*calls):
        caplog.clear()
        tracker = tracker_of("wandb", tmp_path / "run")
        for call in calls:
            call(tracker)
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    def end(tracker):
        tracker.finish({"test/wer": 0.5}, failed=False)

    monkeypatch.setattr(wandb, "init", lambda **_: next(runs))
    (text,) = said(lambda t: t.log({"a": 1}, 1), lambda t: t.log({"a": 1}, 2), end)
    assert "W&B has failed (Connection lost); the run goes on without it" in text
    (text,) = said(end)
    assert "lacks the end of this run (the service is gone); to send it: wandb sync x" in text
    began = time.monotonic()
    (text,) = said(end)
    assert "it does not answer" in text and time.monotonic() - began < 10

    def fails(**_):
        raise ValueError("a key of W&B has 40 letters")

    monkeypatch.setattr(wandb, "init", fails)
    (text,) = said(lambda t: t.log({"a": 1}, 1), end)
    assert "W&B has failed (a key of W&B has 40 letters)" in text


# ------------------------------------------------------------------------------------------------------------
# TensorBoard


def test_tensorboard_reads_what_was_logged(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra asr_exp[tensorboard]",
    )
    tracker = tracker_of("tensorboard", tmp_path)
    for step in (1, 2, 3):
        tracker.log({"train/loss": 1 / step, "dev/wer": None, "train/word": "no number"}, step)
    tracker.table("dev/hypotheses", table(), 3)
    tracker.finish({"test/wer": 0.5}, failed=False)
    events = reader.EventAccumulator(
        str(tmp_path / "tensorboard"), size_guidance={reader.TENSORS: 0, reader.AUDIO: 0}
    )
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, pytest.approx(e.value)) for e in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    (heard,) = [e for tag in events.Tags()["audio"] for e in events.Audio(tag)]
    assert heard.sample_rate == 16000 and heard.length_frames == 1600
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]
    }
    assert (
        "übung" in texts["dev/hypotheses/text_summary"] and '"name": "tiny"' in texts["config/text_summary"]
    )


def test_tensorboard_shows_a_step_that_is_made_again_once(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs the extra asr_exp[tensorboard]",
    )
    # killed after step 5, gone on from 3; from the end
    for steps, loss in ((range(1, 6), 1.0), (range(4, 7), 2.0), ((), 0.0)):
        tracker = tracker_of("tensorboard", tmp_path)
        for step in steps:
            tracker.log({"train/loss": loss}, step)
        tracker.table("dev/hypotheses", table(), 6)
        tracker.finish({}, failed=False)
        time.sleep(1.1)  # files are read in the order of their names, which have seconds
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
        (5, 2.0),
        (6, 2.0),
    ]


# ------------------------------------------------------------------------------------------------------------
# by name


def test_no_tracker_writes_nothing(tmp_path):
    tracker = tracker_of("none", tmp_path)
    tracker.log({"a": 1}, 1)
    tracker.table("t", table(), 1)
    tracker.finish({}, failed=True)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_an_error_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match=r"tracking\.name=tensorbord .*'tensorboard'"):
        tracker_of("tensorbord", tmp_path)
