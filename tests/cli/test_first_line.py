"""What a command prints before torch is imported. The processes here end where torch's import begins."""

import os
import pty
import subprocess
import sys

import pytest

from asr_exp import __version__

UP_TO_TORCH = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            sys.stdout.flush()
            os.write(1, f"<import of {name}>".encode())
            os._exit(0)

sys.meta_path.insert(0, Finder())
from asr_exp.cli.main import main_and_exit
main_and_exit()
"""


def start(*words, cwd, **environment):
    """Run a command up to torch -> (what it wrote to a pipe as stdout, what to a terminal as stderr)."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", UP_TO_TORCH, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, **environment},
        timeout=120,
    )
    os.close(theirs)
    told = b""
    try:
        while chunk := os.read(ours, 4096):
            told += chunk
    except OSError:  # Linux says so at the end of a terminal
        pass
    os.close(ours)
    return done.stdout.decode(), told.decode()


def piped(*words, cwd, **environment):
    done = subprocess.run(
        [sys.executable, "-c", UP_TO_TORCH, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("command", ["train", "transcribe", "serve"])
def test_on_a_terminal_a_line_comes_before_torch(tmp_path, command):
    named = ["run=some/model", "files=[a.wav]"] if command == "transcribe" else []
    out, told = start(command, *named, cwd=tmp_path)
    assert out.startswith("<import of t")
    (line,) = told.splitlines()
    assert line.startswith(f"asr_exp {__version__} {command}: ")
    assert ("some/model" if named else "demo x tiny, outputs/demo/tiny/") in line


def test_where_stdout_is_a_report_it_has_the_line_and_where_it_is_the_result_it_does_not(tmp_path):
    out, told = piped("train", "seed=3", cwd=tmp_path)
    line, _, rest = out.partition("\n")
    assert "train: demo x tiny, outputs/demo/tiny/" in line and rest.startswith("<import of t") and not told
    out, told = piped("transcribe", "run=some/model", "files=[a.wav]", cwd=tmp_path)
    assert out.startswith("<import of t") and not told


def test_of_several_ranks_none_repeats_the_line_of_launch(tmp_path):
    out, told = piped("train", cwd=tmp_path, RANK="0", WORLD_SIZE="2")
    assert out.startswith("<import of t") and not told
    out, _ = piped("train", cwd=tmp_path, RANK="0", WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none")
    assert out.startswith("asr_exp ")
    out, _ = piped("train", cwd=tmp_path, RANK="1", WORLD_SIZE="2", TORCHELASTIC_RUN_ID="none")
    assert out.startswith("<import of t")
