"""Libraries that are broken or not there: what does not need them works, and what needs them says so in a
sentence.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from harness import QUIET, environment, result, run_folder

from asr_exp.core import libraries
from asr_exp.core.errors import UserError
from asr_exp.core.exit_status import status_of

TORCH = f"torch {importlib.metadata.version('torch')}"
MEND = (
    "install a pair that fits (a CPU build of torch needs one of torchaudio): pip install -U torch torchaudio"
)
BROKEN = {
    "raise OSError('Could not load this library') from OSError('libtorch_cuda.so: cannot open shared object "
    "file')": ("OSError: libtorch_cuda.so: cannot open shared object file"),
    "raise ImportError('undefined symbol: _ZN5torch3jit')": "ImportError: undefined symbol: _ZN5torch3jit",
    "import torch; torch.of_a_later_release": (
        "AttributeError: module 'torch' has no attribute 'of_a_later_release'"
    ),
}
# What takes a library away from an interpreter that starts with it on its path, as if it were not installed.
TAKEN_AWAY = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *where: None if name == "{}" else found(name, *where))
"""
# Several command lines, one after the other, and the exit status of each.
COMMANDS = """
import json, sys
from asr_exp.cli.main import main
print("statuses", *(main(words) for words in json.loads(sys.argv[1])))
"""


def package(folder: Path, name: str, source: str, version: str | None = None) -> Path:
    """A folder for the path with a library of that source; with a version, it seems to be one that pip has
    installed.
    """
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)
    if version:
        (folder / f"{name}-{version}.dist-info").mkdir()
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        (folder / f"{name}-{version}.dist-info" / "top_level.txt").write_text(name)
    return folder


def in_a_process(folder: Path, *commands: list[str], cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=path),
        timeout=300,
    )


def forgotten() -> dict[str, ModuleType]:
    """Have Python import torchaudio anew -> what it had of it."""
    libraries._failure.cache_clear()
    return {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "torchaudio"
    }


@pytest.fixture
def first(monkeypatch):
    """first(FOLDER): what lies there is imported in the place of the torchaudio that is installed."""
    before = forgotten()
    yield monkeypatch.syspath_prepend
    forgotten()
    sys.modules.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("broken", [True, False])
def test_a_run_goes_its_way_without_torchaudio(broken, corpus, tones, tmp_path):
    """Trained from a checkpoint, scored, used; `align` alone needs torchaudio."""
    source = next(iter(BROKEN))
    if broken:
        path = package(tmp_path / "path", "torchaudio", source, "9.1")
    else:
        path = tmp_path / "path"
        path.mkdir()
        (path / "sitecustomize.py").write_text(TAKEN_AWAY.format("torchaudio"))
    steps = ["trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_seconds=4", *QUIET]
    trained = in_a_process(path, ["model=tiny", *corpus, *steps], cwd=tmp_path)
    assert "statuses 0" in trained.stdout, trained.stderr
    run, recording = run_folder(tmp_path), str(tones / "test0.wav")
    assert result(run)["status"] == "finished" and result(run)["splits"]["test"]["coverage"] == 1
    used = in_a_process(
        path,
        ["evaluate", str(run), "split=dev"],
        ["transcribe", recording, f"run={run}", "trainer.device=cpu"],
        ["align", recording, f"run={run}", "align.text=ba", "trainer.device=cpu"],
        cwd=tmp_path,
    )
    assert "statuses 0 0 2" in used.stdout and "Traceback" not in used.stderr, used.stdout + used.stderr
    (told,) = [line for line in used.stderr.splitlines() if line.startswith("error")]
    missing = (
        "torchaudio is not installed, and alignments, beam search and its recognisers need it: pip install -U"
        " torch torchaudio"
    )
    assert told == "error: " + (
        f"torchaudio 9.1 cannot be loaded beside {TORCH} ({BROKEN[source]}): {MEND}" if broken else missing
    )


@pytest.mark.parametrize("source", BROKEN)
def test_a_broken_torchaudio_is_told_of_and_hidden(source, first, tmp_path):
    first(package(tmp_path, "torchaudio", source))
    libraries.hide_broken_torchaudio()
    assert importlib.util.find_spec("torchaudio") is None  # which is how transformers looks for it
    with pytest.raises(UserError) as told:
        libraries.torchaudio("functional")
    assert f"cannot be loaded beside {TORCH} ({BROKEN[source]}): {MEND}" in str(told.value)


def test_a_torchaudio_that_lacks_a_library_of_its_own(first, tmp_path):
    first(package(tmp_path, "torchaudio", "import library_of_nobody.inner"))
    with pytest.raises(
        UserError,
        match="^Python finds no module 'library_of_nobody', which torchaudio.* needs: pip install library",
    ):
        libraries.torchaudio("functional")


def test_a_torchaudio_without_what_is_needed(first, tmp_path):
    first(package(tmp_path, "torchaudio", ""))
    package(tmp_path / "torchaudio", "functional", "def merge_tokens(): pass")
    libraries.hide_broken_torchaudio()
    assert libraries.torchaudio("functional", "merge_tokens").__file__.startswith(str(tmp_path))
    with pytest.raises(
        UserError, match="AttributeError: module 'torchaudio.functional' has no attribute 'forced_align'"
    ):
        libraries.torchaudio("functional", "merge_tokens", "forced_align")


def test_torchaudio_as_it_is_installed():
    if why := libraries._failure():
        pytest.skip(f"it cannot be loaded here: {why}")
    libraries.hide_broken_torchaudio()
    assert callable(libraries.torchaudio("functional", "forced_align").forced_align)


# ------------------------------------------------------------------------------------------------------------
# any library


def test_a_broken_library_is_called_by_its_name(tmp_path):
    """soundfile without its C library, as a Linux without libsndfile has it, found by the command that needs
    it.
    """
    package(tmp_path, "soundfile", "raise OSError('sndfile library not found')", "0.9")
    done = in_a_process(tmp_path, ["evaluate", "run=x"], ["transcribe", "a.wav", "run=x"], cwd=tmp_path)
    assert "statuses 2 2" in done.stdout and "Traceback" not in done.stderr, done.stderr
    want = (
        "error: soundfile 0.9 cannot be loaded (OSError: sndfile library not found): it is broken, or does"
        " not fit the other packages"
    )
    assert want in done.stderr and "pip install -U soundfile" in done.stderr


def raised(statement: str) -> Exception:
    try:
        exec(statement, {"__name__": "asr_exp.somewhere"})
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_which_library_cannot_be_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    package(tmp_path, "door_inner", "from json import no_such_thing", "1.5")
    package(
        tmp_path,
        "door_outer",
        "try:\n import door_inner\nexcept ImportError as e:\n raise RuntimeError('see above') from e",
        "2",
    )
    package(tmp_path, "door_plugin", "raise OSError('mine')")
    told = libraries.import_failure(raised("import door_outer"))
    assert told and told.startswith(
        "door_inner 1.5 cannot be loaded (ImportError: cannot import name 'no_such_thing' from 'json'"
    )
    assert told.endswith("pip install -U door_inner")
    assert (
        libraries.import_failure(raised("import door_of_nobody"))
        == "Python finds no module 'door_of_nobody', which asr_exp needs; in its checkout type: pip install"
        " -e ."
    )
    assert status_of(raised("import door_outer")) == 2 and "error: door_inner 1.5" in capsys.readouterr().err
    # what pip has not installed, our own files, and errors that no import ends with keep their traceback
    for statement in (
        "import door_plugin",
        "from asr_exp.core.errors import NoSuch",
        "import asr_exp.nowhere",
        "open('/nowhere')",
        "1 / 0",
    ):
        assert libraries.import_failure(raised(statement)) is None, statement
    assert status_of(raised("import door_plugin")) == 1 and "Traceback" in capsys.readouterr().err


def test_a_checkpoint_is_not_to_blame_for_a_library(monkeypatch, tmp_path):
    """What transformers imports when it is asked for a network, broken: the library is named, not
    model.checkpoint.
    """
    from asr_exp.model.loading import load_backbone
    from asr_exp.model.model_config import ModelSettings

    monkeypatch.syspath_prepend(
        package(
            tmp_path, "door_kernels", "raise OSError('libdoor.so: cannot open shared object file')", "3.0"
        )
    )

    def broken(*_, **__):
        try:
            import door_kernels  # noqa: F401
        except OSError as why:
            raise RuntimeError("Failed to import transformers.models.wav2vec2") from why

    monkeypatch.setattr("transformers.Wav2Vec2ForCTC.from_pretrained", broken)
    with pytest.raises(UserError, match="door_kernels 3.0 cannot be loaded .OSError: libdoor.so") as told:
        load_backbone(ModelSettings("builtin:tiny"), 5, 0)
    assert "checkpoint" not in str(told.value)
