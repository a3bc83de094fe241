"""Clips, rows and disks that are not what they should be: each is named, the run goes on or says why not, and
nothing is lost.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from harness import (
    QUIET,
    SMALL,
    cli,
    fork,
    intercept,
    lines,
    one_sentence,
    result,
    run,
    run_folder,
    spoken,
    write_manifest,
)

from asr_exp.cli.main import main
from asr_exp.scoring.error_rates import READ_CER

SHORT = [
    *SMALL,
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.log_every=1",
    "trainer.batch_seconds=4",
    *QUIET,
]
# file, transcript, the reason it is left out of (training, scoring); None where it is used
ROWS = [
    ("good0.wav", "ba di", None, None),
    ("good1.wav", "go lu", None, None),
    ("good2.wav", "me me", None, None),
    ("telephone.wav", "ba me", None, None),
    ("stereo.flac", "di go", None, None),
    ("missing.wav", "ba di", "no such file", "no such file"),
    ("garbage.wav", "ba di", "unreadable", "unreadable"),
    ("nothing.wav", "ba di", "", ""),
    ("header.wav", "ba di", "empty", "empty"),
    ("truncated.wav", "ba di", "truncated", "truncated"),
    ("truncated.flac", "ba di", "", ""),
    ("nan.wav", "ba di", "not finite", "not finite"),
    ("click.wav", "ba", "too short", "too short"),
    ("lecture.wav", "ba di", "too long", "too long"),
    ("good0.wav", "", "text", "text"),
    ("good1.wav", " ?! ", "empty transcript", "empty transcript"),
    ("silent.wav", "ba di", "silent", None),
    ("good2.wav", "xyz", "no character", None),
    ("good1.wav", "ba di go lu me " * 20, "labels longer than frames", None),
]
BROKEN = ("good0.wav", "ba di", "s0", "one field too many")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A folder with every kind of clip, and train.csv, dev.csv, test.csv that name them."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for i, words in enumerate(("ba di", "go lu", "me me")):
        soundfile.write(folder / f"good{i}.wav", spoken(words.split(), rng), 16000)
    soundfile.write(folder / "telephone.wav", spoken(["ba", "me"], rng, 8000), 8000)
    soundfile.write(folder / "stereo.flac", np.stack([spoken(["di", "go"], rng, 44100)] * 2, 1), 44100)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "click.wav", 0.1 * np.ones(160), 16000)
    soundfile.write(folder / "lecture.wav", 0.1 * np.sin(np.arange(8000 * 600)), 8000)
    soundfile.write(folder / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(folder / "header.wav", np.zeros(0), 16000)
    (folder / "garbage.wav").write_bytes(rng.bytes(5000))
    (folder / "nothing.wav").touch()
    for suffix in ("wav", "flac"):
        soundfile.write(folder / f"truncated.{suffix}", spoken(["ba"] * 6, rng), 16000)
        whole = (folder / f"truncated.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(whole[: len(whole) // 2])
    for split in ("train", "test"):
        write_manifest(folder / f"{split}.csv", [*((file, text, "s0") for file, text, *_ in ROWS), BROKEN])
    write_manifest(folder / "dev.csv", [("good0.wav", "ba di", "s0"), ("stereo.flac", "di go", "s1")])
    (folder / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(["[PAD]", "[UNK]", "|", *"abdegilmou"])})
    )
    return folder


def data(folder: Path, **other: str) -> list[str]:
    return [
        "dataset=csv",
        *(f"dataset.{split}={folder / other.get(split, split)}.csv" for split in ("train", "dev", "test")),
        f"tokenizer.vocabulary={folder / 'vocab.json'}",
    ]


def test_every_kind_of_bad_clip_at_once(clips, tmp_path):
    folder = run(*data(clips), *SHORT, cwd=tmp_path)
    quarantined = lines(folder / "quarantine.jsonl")
    for split, column in (("train", 2), ("test", 3)):
        told = [(Path(row["file"]).name, row["reason"]) for row in quarantined if row["split"] == split]
        left_out = [(row[0], row[column]) for row in ROWS if row[column] is not None]
        left_out.append((f"{split}.csv", "4 fields where the header names 3"))
        for file, reason in left_out:
            (found,) = [why for name, why in told if name == file and reason in why][:1] or [None]
            assert found, (split, file, reason, told)
        assert len(told) == len(left_out)
    scored = sum(row[3] is None for row in ROWS)
    test = result(folder)["splits"]["test"]
    assert test["utterances"] == scored and test["skipped"] == len(ROWS) + 1 - scored
    assert test["coverage"] == pytest.approx(scored / (len(ROWS) + 1))
    pairs = lines(folder / "hypotheses.test.jsonl")
    references, hypotheses = [p["reference"] for p in pairs], [p["hypothesis"] for p in pairs]
    assert len(pairs) == scored and "xyz" in references
    assert test["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    assert test["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert all(line["train/loss"] > 0 for line in lines(folder / "metrics.jsonl") if "train/loss" in line)


def test_nothing_that_can_be_used(clips, tmp_path, capsys):
    write_manifest(clips / "bad.csv", [(file, text, "s0") for file, text, why, _ in ROWS if why is not None])
    for split in ("train", "dev", "test"):
        bad = [
            file
            for file, _, training, scoring in ROWS
            if (training if split == "train" else scoring) is not None
        ]
        write_manifest(
            clips / "bad.csv",
            [(file, "ba di" if file != "click.wav" else "ba", "s0") for file in bad if "good" not in file],
        )
        run(*data(clips, **{split: "bad"}), *SHORT, cwd=tmp_path, status=2)
        out, err = capsys.readouterr()
        assert (
            err.startswith(f"error: No utterance of dataset.{split} can be used")
            and err.count("\n") == 1
            and "Traceback" not in out
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # it would start from chance, and call itself pretrained
        (["model.config.hidden_size=48"], "weights of Wav2Vec2ForCTC"),
        (["model.config.num_attention_heads=7"], "must be divisible by num_heads"),
        (["model.config.hidden_size=many"], "expected int, got str"),
        (["model.config.hidden_act=gulp"], "gulp"),
        (["model.config.conv_stride=[0,0,0,0]"], "must be numbers of at least 1"),
    ],
)
def test_sizes_that_a_checkpoint_cannot_have(corpus, backbone, tmp_path, capsys, settings, words):
    run(
        *corpus,
        "model=hf",
        f"model.checkpoint={backbone('wav2vec2-group')}",
        *settings,
        *QUIET,
        cwd=tmp_path,
        status=2,
    )
    err = capsys.readouterr().err
    assert err.startswith("error: model.") and words in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------
# disks


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(options) -> a folder on a file system of its own, of a megabyte or two."""
    made = []

    def make(options: str) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        if (
            not (sys.platform == "linux" and shutil.which("mount"))
            or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("no file system can be mounted here (it takes root)")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as why:
                assert why.errno == errno.ENOSPC


def full_at(folder: Path, function: str, call: int) -> None:
    intercept(function, lambda: fill(folder), call)


@pytest.mark.parametrize(
    "moment",
    [
        ("asr_exp.training.checkpoint.save_state", 2),
        ("asr_exp.training.checkpoint.save_pretrained", 3),
        ("asr_exp.training.loop.train_step", 2),
        ("asr_exp.training.loop.train_step", 5),
        ("asr_exp.data.prepare.open_store", 1),
        ("asr_exp.commands.train.command.load_weights", 1),
    ],
    ids=lambda m: f"{m[0].rpartition('.')[2]}-{m[1]}",
)
def test_a_full_disk(corpus, small_disk, tmp_path, moment):
    """Full at some moment: a sentence, status 2, the checkpoint before whole; with room again, the curve of a
    run that had it all along.
    """
    disk = small_disk("size=4m")
    overrides = [*corpus, *SHORT, f"output_root={disk}", "seed=3"]
    out = fork(*overrides, cwd=tmp_path, patch=(full_at, disk, *moment), status=2)
    assert "Traceback" not in out and "Logging error" not in out
    assert "disk is full" in out or "0 MiB free on that disk" in out, out
    (disk / "filler").unlink()
    out = fork(*overrides, cwd=tmp_path)
    assert ("Going on from step" in out) == (
        moment not in [("asr_exp.data.prepare.open_store", 1), ("asr_exp.training.loop.train_step", 2)]
    )
    folder = run_folder(disk)
    roomy = run(*corpus, *SHORT, "seed=3", f"output_root={tmp_path / 'roomy'}", cwd=tmp_path)
    assert (folder / "metrics.jsonl").read_bytes() == (roomy / "metrics.jsonl").read_bytes()


def test_a_full_cache(corpus, small_disk, tmp_path):
    disk = small_disk("size=64k")
    out = fork(*corpus, *SHORT, f"cache_root={disk}", cwd=tmp_path, status=2)
    assert "disk is full" in out and "Traceback" not in out


def read_only(disk: Path) -> Path:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    return disk


@pytest.mark.parametrize("key", ["output_root", "cache_root"])
def test_a_place_that_cannot_be_written(corpus, small_disk, tmp_path, capsys, key):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", read_only(small_disk("size=64k"))):
        run(*corpus, *SHORT, f"{key}={place}", cwd=tmp_path, status=2)
        out, err = capsys.readouterr()
        assert (
            err.startswith("error: ")
            and err.count("\n") == 1
            and key in err
            and str(place) in err
            and "Traceback" not in out
        )


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["1", "0"])
def test_a_hub_id_without_network(corpus, tmp_path, offline):
    """The libraries of the hub would try for half a minute, in eleven lines."""
    nowhere = {
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    done = cli(*corpus, "model=wav2vec2-base", *QUIET, cwd=tmp_path, status=None, timeout=60, **nowhere)
    assert "wav2vec2-base" in one_sentence(done) and done.stderr.count("\n") == 1
    done = cli(
        "dataset=librispeech-100h", "model=tiny", *QUIET, cwd=tmp_path, status=None, timeout=60, **nowhere
    )
    assert "librispeech" in one_sentence(done) and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_rank_says_what_no_other_rank_says(corpus, tmp_path):
    """Rank 0 tells of a mistake; the others leave without a word of their own crash."""
    done = cli(*corpus, *SHORT, f"output_root={os.devnull}", "trainer.devices=2", cwd=tmp_path, status=None)
    assert os.devnull in one_sentence(done)
    # both ranks meet it
    done = cli(*corpus, *SHORT, "dataset.columns.text=nope", "trainer.devices=2", cwd=tmp_path, status=None)
    assert "has no column 'nope'" in one_sentence(done)


@pytest.mark.slow
def test_references_without_spaces_are_told_of(corpus, tmp_path, capsys):
    """Before training, and beside a score: the WER of such texts counts sentences."""
    folder = Path(corpus[1].partition("=")[2]).parent
    data = []
    for split in ("train", "dev", "test"):
        rows = [(path, "今天天气很好我们去公园") for path in sorted(folder.glob(f"{split}*.wav"))]
        data.append(f"dataset.{split}={write_manifest(tmp_path / f'{split}.csv', rows, ('file', 'text'))}")
    found = run("dataset=csv", *data, *SHORT, cwd=tmp_path)
    trained = capsys.readouterr().out
    assert (
        trained.index(READ_CER) < trained.index("step 3/6")
        and "CER 100.00 %" in trained[trained.index("Done") :]
    )
    assert main(["evaluate", f"run={found}", "split=dev"]) == 0 and READ_CER in capsys.readouterr().out
