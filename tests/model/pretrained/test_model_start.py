"""Runs that start from other people's checkpoints, from a run of ours and from torchaudio's networks, to
their end.
"""

import shutil

import jiwer
import pytest
import torch
from harness import QUIET, call, lines, result, run, write_manifest
from safetensors.torch import load_file
from test_checkpoint_vocabularies import made

THREE = ["trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_seconds=4", *QUIET]


@pytest.mark.parametrize("name", ["lower case", "more outputs than tokens"])
def test_fine_tuning_with_the_checkpoint_s_own_head(tmp_path, corpus, name):
    folder = made(tmp_path / "theirs", name)
    before = load_file(folder / "model.safetensors")
    mine = run(
        *corpus,
        *THREE,
        "model=hf",
        f"model.checkpoint={folder}",
        "model.head=keep",
        "tokenizer.splits=[train]",
        cwd=tmp_path,
    )
    after = load_file(mine / "checkpoints/best/model.safetensors")
    assert set(before) == set(after) and before["lm_head.weight"].shape == after["lm_head.weight"].shape
    assert torch.equal(
        before["wav2vec2.feature_extractor.conv_layers.0.conv.weight"],
        after["wav2vec2.feature_extractor.conv_layers.0.conv.weight"],
    )  # frozen
    assert all(0 < line["train/loss"] < 1e4 for line in lines(mine / "metrics.jsonl") if "train/loss" in line)


def test_a_run_is_a_checkpoint(tmp_path, trained, corpus):
    """model.checkpoint=RUN starts from its best checkpoint, as the folder inside it does, with its own
    vocabulary or a new one.
    """
    best = load_file(trained / "checkpoints/best/model.safetensors")
    keep = ["model=hf", f"model.checkpoint={trained}", "model.head=keep", "trainer.max_steps=0", *QUIET]
    (tmp_path / "kept").mkdir()
    kept = run(*corpus, *keep, cwd=tmp_path / "kept")
    assert result(kept)["splits"]["test"]["wer"] == result(trained)["splits"]["test"]["wer"]
    (tmp_path / "new").mkdir()
    started = run(*corpus, *THREE, "model=hf", f"model.checkpoint={trained}", cwd=tmp_path / "new")
    found = load_file(started / "checkpoints/best/model.safetensors")
    assert torch.equal(
        found["wav2vec2.feature_extractor.conv_layers.0.conv.weight"],
        best["wav2vec2.feature_extractor.conv_layers.0.conv.weight"],
    )


def test_a_run_that_has_no_checkpoint_yet(tmp_path, trained, corpus, capsys):
    unfinished = tmp_path / "run"
    shutil.copytree(trained, unfinished, ignore=lambda *_: ["checkpoints"])
    call(*corpus, *THREE, "model=hf", f"model.checkpoint={unfinished}", cwd=tmp_path, status=2)
    assert "is a run without checkpoints/best yet; train it first" in capsys.readouterr().err


def test_phonemes_are_scored_as_phones(tmp_path, tones, capsys):
    """A checkpoint of phonemes is not scored in words: PER against transcripts of phones, or a sentence."""
    folder = made(tmp_path / "theirs", "phonemes")
    manifest = write_manifest(
        tmp_path / "test.csv", [(tones / "test0.wav", "tʃ aɪ n", "a"), (tones / "test1.wav", "s oː", "b")]
    )
    ask = ["evaluate", f"run={folder}", "dataset=csv", f"dataset.test={manifest}", "trainer.device=cpu"]
    call(*ask, cwd=tmp_path, status=2)
    assert f"error: run={folder} emits phones; give tokenizer=phone" in capsys.readouterr().err
    scored = run(*ask, "tokenizer=phone", "text=phones", cwd=tmp_path)
    test = result(scored)["splits"]["test"]
    said = [line["hypothesis"] for line in lines(scored / "hypotheses.test.jsonl")]
    assert test["per"] == pytest.approx(jiwer.wer(["tʃ aɪ n", "s oː"], said)) and test["wer"] is None
    assert result(scored)["protocol"]["metric"] == "per"
