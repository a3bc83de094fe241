"""Killed at any moment, asked to leave, started twice: the same command goes on to the curve and the scores
of the run left alone.
"""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from harness import (
    QUIET,
    SMALL,
    Fork,
    fork,
    intercept,
    killed_at,
    lines,
    result,
    run,
    run_folder,
    signalled_at,
    wait_for,
)

SHORT = [
    *SMALL,
    "trainer.max_steps=18",
    "trainer.eval_every=6",
    "trainer.log_every=2",
    "trainer.batch_seconds=6",
    "optimizer.lr=3e-3",
    "augment.mask_time_prob=0.2",
    "augment.mask_time_length=3",
    *QUIET,
]
# Everything a checkpoint has to bring back: moments, averages, layerdrop, dropout, kept weights.
ALL = {
    "plain": [],
    "ema": ["trainer.ema=0.8", "augment.layerdrop=0.3"],
    "average": ["trainer.average=2", "augment.dropout=0.2", "augment.speed=[0.9,1.1]"],
}
TRAIN, CHECKPOINT = "asr_exp.training.loop", "asr_exp.training.checkpoint"


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """whole(overrides) -> the run that nobody disturbs."""
    made = {}

    def make(overrides: list[str]) -> Path:
        if str(overrides) not in made:
            place = tmp_path_factory.mktemp("whole")
            fork(*overrides, cwd=place)
            made[str(overrides)] = run_folder(place)
        return made[str(overrides)]

    return make


def same(one: Path, two: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    for name in (
        "hypotheses.test.jsonl",
        "hypotheses.dev.jsonl",
        "losses.train.jsonl",
        "checkpoints/best/model.safetensors",
    ):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    a, b = result(one), result(two)
    assert a["status"] == b["status"] == "finished"
    assert all(a[k] == b[k] for k in ("splits", "best", "protocol", "signature"))
    assert sorted(p.name for p in one.iterdir() if p.name != ".lock") == sorted(
        p.name for p in two.iterdir() if p.name != ".lock"
    )
    assert sorted(p.name for p in (one / "checkpoints").iterdir()) == sorted(
        p.name for p in (two / "checkpoints").iterdir()
    )


@pytest.mark.slow
def test_the_same_ask_elsewhere(whole, corpus, tmp_path):
    """In another process, output root and cache: the same curve, hypotheses and scores, to the last digit."""
    overrides, cache = [*corpus, *SHORT, *ALL["average"]], tmp_path / "cache"
    Fork(*overrides, f"output_root={tmp_path / 'runs'}", cwd=tmp_path, ASR_EXP_CACHE=str(cache)).wait()
    assert any(path.is_file() for path in cache.rglob("*"))
    same(whole(overrides), run_folder(tmp_path / "runs"))


def torn_line(call: int) -> None:
    """Die with half a line of metrics.jsonl on the disk."""
    from asr_exp.training.metrics_file import MetricsFile

    write = MetricsFile.write

    def half(self, made):
        made = list(made)
        if any(line["step"] >= call for line in made):
            write(self, made[:-1])
            self._file.write('{"step": 7, "tra')
            self._file.flush()
            killed_at("asr_exp.training.metrics_file.json.dumps")
        write(self, made)

    MetricsFile.write = half


@pytest.mark.slow
@pytest.mark.parametrize("what", ALL)
def test_killed_again_and_again(whole, corpus, tmp_path, what):
    """Before the first checkpoint, within a step, while weights are written, before and between the renames,
    half-way through a line ...
    """
    overrides = [*corpus, *SHORT, *ALL[what]]
    deaths: list[tuple] = [
        (killed_at, f"{TRAIN}.train_step", 4),  # nothing saved yet
        # best of step 6 is there, last is all written but for its name
        (killed_at, "asr_exp.core.files._flush", 2),
        (
            (killed_at, f"{CHECKPOINT}.save_state", 1)
            if what == "plain"
            else (killed_at, "asr_exp.training.checkpoint.save_pretrained", 2, True)
        ),
        (killed_at, f"{TRAIN}.train_step", 9),
        (torn_line, 9),
        (killed_at, f"{TRAIN}.score", 1, True),  # step 12 is scored, its best saved, and forgotten
        (killed_at, "pathlib.Path.rename", 3 if what == "average" else 2, True),
        (killed_at, f"{TRAIN}.train_step", 2),
        # trained; the test split is not scored
        (killed_at, "asr_exp.commands.train.command.load_weights", 1),
        (killed_at, "asr_exp.commands.train.record.write_result", 1),
    ]
    for death in deaths:
        fork(*overrides, cwd=tmp_path, patch=death, status=None)
    fork(*overrides, cwd=tmp_path)
    same(whole(overrides), run_folder(tmp_path))


def slowly(seconds: float) -> None:
    intercept(f"{TRAIN}.train_step", lambda: None)
    from asr_exp.training import loop as training

    step = training.train_step
    training.train_step = lambda *args: (time.sleep(seconds), step(*args))[1]


@pytest.mark.slow
def test_killed_at_random_moments(whole, corpus, tmp_path):
    overrides = [*corpus, *SHORT]
    draw = random.Random(0)
    kills = 0
    for _ in range(4):
        child = Fork(*overrides, cwd=tmp_path, patch=(slowly, 0.2))
        time.sleep(draw.uniform(0.3, 2.5))
        with contextlib.suppress(ProcessLookupError):  # a fast machine is done before the last of them
            child.send(signal.SIGKILL)
            kills += 1
        child.wait(status=None)
    assert kills > 0
    fork(*overrides, cwd=tmp_path)
    same(whole(overrides), run_folder(tmp_path))


def test_killed_between_the_renames(corpus, tmp_path):
    """The old checkpoint is away, the new one has not its name yet."""
    overrides = [*corpus, *SHORT]
    # best, last; then best moved away
    fork(*overrides, cwd=tmp_path, patch=(killed_at, "pathlib.Path.rename", 5, True), status=-9)
    left = sorted(p.name for p in (run_folder(tmp_path) / "checkpoints").iterdir())
    assert left in (["best.new", "best.old", "last"], ["best", "last.new", "last.old"])
    assert "Going on from step" in fork(*overrides, cwd=tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_leave(whole, corpus, tmp_path, number):
    overrides = [*corpus, *SHORT]
    out = fork(
        *overrides, cwd=tmp_path, patch=(signalled_at, f"{TRAIN}.train_step", number, 8), status=128 + number
    )
    folder = run_folder(tmp_path)
    assert "Stopped at step 8 of 18 and saved" in out and "Traceback" not in out
    assert result(folder)["status"] == "stopped"
    assert (folder / "checkpoints/last/training_state.pt").exists()
    assert [line["step"] for line in lines(folder / "metrics.jsonl") if "train/loss" in line] == list(
        range(1, 9)
    )
    assert "Going on from step 8" in fork(*overrides, cwd=tmp_path)
    same(whole(overrides), folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    ["asr_exp.builders.data.prepare_split", "asr_exp.commands.train.command.load_weights", f"{TRAIN}.score"],
)
def test_asked_to_leave_between_steps(whole, corpus, tmp_path, where):
    """While data is prepared, while dev is scored, before test is: it leaves as well, and nothing is lost."""
    overrides = [*corpus, *SHORT]
    out = fork(*overrides, cwd=tmp_path, patch=(signalled_at, where, signal.SIGTERM), status=143)
    assert "Traceback" not in out and result(run_folder(tmp_path))["status"] == "stopped"
    fork(*overrides, cwd=tmp_path)
    same(whole(overrides), run_folder(tmp_path))


def test_a_second_process_is_refused(corpus, tmp_path):
    overrides = [*corpus, *SHORT]
    first = Fork(*overrides, cwd=tmp_path, patch=(slowly, 0.8))
    wait_for(lambda: any(tmp_path.rglob("checkpoints/best")))
    folder = run_folder(tmp_path)
    beside = tmp_path / "beside"
    beside.mkdir()
    for command in ([], ["evaluate", f"run={folder}"]):
        out = fork(
            *command,
            *(QUIET if command else [*overrides, f"output_root={tmp_path / 'outputs'}"]),
            cwd=beside,
            status=2,
        )
        assert "Another process is at work in" in out and "Traceback" not in out
    first.wait()
    assert result(folder)["status"] == "finished"


def test_a_finished_run_says_so(whole, corpus):
    overrides = [*corpus, *SHORT]
    folder = whole(overrides)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    out = fork(*overrides, cwd=folder.parents[3], patch=(killed_at, "asr_exp.builders.session.started"))
    assert "finished" in out and str(folder.name) in out and "test WER" in out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


@pytest.fixture
def stopped(whole, corpus, tmp_path):
    """The overrides of a run that got to step 8, and its folder."""
    overrides = [*corpus, *SHORT]
    fork(*overrides, cwd=tmp_path, patch=(signalled_at, f"{TRAIN}.train_step", signal.SIGTERM, 8), status=143)
    return overrides, run_folder(tmp_path)


def said(overrides: list[str], cwd: Path, capsys: pytest.CaptureFixture) -> str:
    run(*overrides, cwd=cwd, status=2)
    err = capsys.readouterr().err
    assert (
        err.startswith("error: ")
        and len([x for x in err.splitlines() if x.startswith("error")]) == 1
        and "Traceback" not in err
    )
    return err


def zeros(data: bytes) -> bytes:
    return data[:1000] + bytes(min(4096, len(data) - 1000)) + data[5096:]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGE = {
    "flipped": flipped,
    "zeros": zeros,
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
}


def test_a_damaged_checkpoint_is_named(stopped, tmp_path, capsys):
    """Where there is no checkpoint before it: every kind of damage, and nothing is lost."""
    overrides, folder = stopped
    last = folder / "checkpoints" / "last"
    shutil.rmtree(folder / "checkpoints" / "last.old")

    def relative(path: Path) -> str:
        return str(path.relative_to(tmp_path))

    files = {
        "training_state.pt": ["zeros", "cut", "empty"],
        "model.safetensors": ["flipped", "cut"],
        "vocab.json": ["flipped"],
        "checksums.json": ["cut"],
    }
    for name, kinds in files.items():
        good = (last / name).read_bytes()
        for how in kinds:
            (last / name).write_bytes(DAMAGE[how](good))
            told = said(overrides, tmp_path, capsys)
            assert name in told and "is damaged" in told and f"Delete {relative(last.parent)}" in told
        if name == "model.safetensors":
            (last / name).unlink()
            assert f"{name} is missing" in said(overrides, tmp_path, capsys)
        (last / name).write_bytes(good)
    (last / "notes.txt").write_text("A file of the user's.")
    run(*overrides, cwd=tmp_path)


@pytest.mark.parametrize("name", ["training_state.pt", "model.safetensors"])
def test_the_checkpoint_before_a_damaged_one_goes_on_to_the_same_curve(stopped, whole, tmp_path, name):
    overrides, folder = stopped
    path = folder / "checkpoints" / "last" / name
    path.write_bytes(flipped(path.read_bytes()))
    out = fork(*overrides, cwd=tmp_path)
    assert f"last is damaged: {name} is not what was written" in out and "Going on from step 6 of 18" in out
    same(whole(overrides), folder)


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(stopped, whole, tmp_path):
    overrides, folder = stopped
    last = folder / "checkpoints" / "last"
    for name in ("checksums.json", "metrics.jsonl.copy", "losses.train.jsonl.copy"):
        (last / name).unlink()
    shutil.rmtree(last.with_name("last.old"))
    out = fork(*overrides, cwd=tmp_path)
    assert "Going on from step 8 of 18" in out and "damaged" not in out
    same(whole(overrides), folder)


def test_a_damaged_best_checkpoint_is_scored_nowhere(stopped, tmp_path, capsys):
    overrides, folder = stopped
    best = folder / "checkpoints" / "best"
    good = (best / "model.safetensors").read_bytes()
    (best / "model.safetensors").write_bytes(flipped(good))
    told = said(overrides, tmp_path, capsys)
    assert "best is damaged: model.safetensors" in told and "Delete that folder" in told
    for command in (["evaluate", *QUIET], ["transcribe", "files=[x.wav]"], ["export", "out=x"]):
        told = said([*command, f"run={folder}"], tmp_path, capsys)
        assert "model.safetensors is not what was written" in told
    shutil.rmtree(best)
    assert "the best is chosen anew" in fork(*overrides, cwd=tmp_path)
    assert result(folder)["best"]["step"] > 8


@pytest.mark.parametrize("how", ["deleted", "cut", "garbage", "zeros"])
@pytest.mark.parametrize("name", ["metrics.jsonl", "losses.train.jsonl"])
def test_a_damaged_past_is_restored_and_said(stopped, whole, tmp_path, how, name):
    overrides, folder = stopped
    path = folder / name
    good = path.read_bytes()
    bad = {
        "cut": good[: len(good) // 2],
        "garbage": good[:50] + b"\xff\xfe garbage\n" + good[50:],
        "zeros": good[:40] + bytes(len(good) - 40),
    }
    path.unlink() if how == "deleted" else path.write_bytes(bad[how])
    out = fork(*overrides, cwd=tmp_path)
    aside = folder / f"{name}.damaged"
    assert f"{name} was {'missing' if how == 'deleted' else 'damaged'}; it is restored" in out
    assert aside.exists() == (how != "deleted")
    if aside.exists():
        assert aside.read_bytes() == bad[how]
        aside.unlink()
    same(whole(overrides), folder)


@pytest.mark.slow
def test_other_data_is_refused(tmp_path, corpus, capsys):
    source = Path(corpus[1].partition("=")[2]).parent
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    overrides = [
        "dataset=csv",
        *(f"dataset.{split}={copy / split}.csv" for split in ("train", "dev", "test")),
        *SHORT,
    ]
    fork(*overrides, cwd=tmp_path, patch=(signalled_at, f"{TRAIN}.train_step", signal.SIGTERM, 8), status=143)
    good = (copy / "train.csv").read_text()
    (copy / "train.csv").write_text(good.replace("ba", "di", 1))
    assert "data has changed" in said(overrides, tmp_path, capsys)
    (copy / "train.csv").write_text("\n".join(good.splitlines()[:-1]) + "\n")
    assert "data has changed" in said(overrides, tmp_path, capsys)
    (copy / "train.csv").write_text(good)
    run(*overrides, cwd=tmp_path)


@pytest.mark.slow
def test_early_stopping_survives_a_kill(whole, corpus, tmp_path):
    overrides = [*corpus, *SHORT, "trainer.patience=1", "optimizer.lr=1e-12", "trainer.eval_every=2"]
    fork(
        *overrides, cwd=tmp_path, patch=(killed_at, "asr_exp.commands.train.command.load_weights"), status=-9
    )
    fork(*overrides, cwd=tmp_path)
    assert result(whole(overrides))["train"]["steps"] < 18
    same(whole(overrides), run_folder(tmp_path))


def interrupted(at: int, again: int | None) -> None:
    """Ctrl-C within one step, and once more, half a second later, within another."""
    from asr_exp.training import loop as training

    step_of = training.train_step

    def train_step(setup, step, batches):
        if step in (at, again):
            time.sleep(0.6 if step == again else 0)
            os.kill(os.getpid(), signal.SIGINT)
        return step_of(setup, step, batches)

    training.train_step = train_step


def test_ctrl_c_saves_and_leaves(whole, corpus, tmp_path):
    overrides = [*corpus, *SHORT]
    out = fork(*overrides, cwd=tmp_path, patch=(interrupted, 8, None), status=130)
    assert "once more leaves at once" in out and "Stopped at step 8 of 18 and saved" in out
    assert result(run_folder(tmp_path))["status"] == "stopped" and "Traceback" not in out
    assert "Going on from step 8" in fork(*overrides, cwd=tmp_path)
    same(whole(overrides), run_folder(tmp_path))


def twice_while_saving(at: int) -> None:
    """Ctrl-C within a step, and again while its checkpoint is written."""
    from asr_exp.training import checkpoint

    interrupted(at, None)
    save = checkpoint.save_state

    def save_state(folder, state):
        if state["state"]["step"] == at:
            time.sleep(0.6)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("still here")
        save(folder, state)

    checkpoint.save_state = save_state


def test_a_second_ctrl_c_leaves_at_once(whole, corpus, tmp_path):
    overrides = [*corpus, *SHORT]
    out = fork(*overrides, cwd=tmp_path, patch=(twice_while_saving, 8), status=130)
    assert "Left at once" in out and "Stopped at step" not in out and "still here" not in out
    assert "Going on from step 6" in fork(*overrides, cwd=tmp_path)
    same(whole(overrides), run_folder(tmp_path))


@pytest.mark.parametrize("every", ["4", "0.001s"])
def test_what_a_kill_costs_is_bound_and_the_curve_stays(whole, corpus, tmp_path, every):
    overrides = [*corpus, *SHORT]
    saving = [*overrides, f"trainer.save_every={every}"]
    fork(*saving, cwd=tmp_path, patch=(killed_at, f"{TRAIN}.train_step", 6), status=-9)
    out = fork(*saving, cwd=tmp_path)
    assert f"Going on from step {4 if every == '4' else 5} of 18" in out
    same(whole(overrides), run_folder(tmp_path))  # of the same signature


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"status": 3}', '{"status": "finished", "splits": {"test": 1}}']
)
def test_a_malformed_result_is_written_anew(corpus, whole, tmp_path, text, capsys):
    overrides = [*corpus, *SHORT]
    shutil.copytree(whole(overrides).parents[2], tmp_path / "outputs")
    folder = run_folder(tmp_path)
    (folder / "result.json").write_text(text)
    told = said(["compare", f"a={folder}", f"b={folder}"], tmp_path, capsys)
    assert "no result.json that can be read" in told
    run("evaluate", f"run={folder}", *QUIET[2:], cwd=tmp_path)
    shutil.rmtree(folder / "evaluations")
    (folder / "result.json").write_text(text)
    run(*overrides, cwd=tmp_path)
    assert result(folder)["splits"] == result(whole(overrides))["splits"]


@pytest.mark.parametrize("how", ["cut", "garbage", "list"])
def test_a_torn_config_is_said_and_written_anew_by_train(corpus, whole, tmp_path, how, capsys):
    overrides = [*corpus, *SHORT]
    shutil.copytree(whole(overrides).parents[2], tmp_path / "outputs")
    path = run_folder(tmp_path) / "config.yaml"
    good = path.read_bytes()
    path.write_bytes({"cut": good[: len(good) // 2], "garbage": b"\xff\xfe" + good, "list": b"- a\n"}[how])
    assert "config.yaml" in said(["evaluate", f"run={path.parent}"], tmp_path, capsys)
    run(*overrides, cwd=tmp_path)
    assert path.read_bytes() == good
