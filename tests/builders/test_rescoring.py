"""`evaluate RUN decode=beam`: another decoder on the emissions that are kept, without the network; weights
found on dev.
"""

import json
import shutil
from pathlib import Path

import pytest
from harness import QUIET, TWO_STEPS, call, cli, lines, result, run
from omegaconf import OmegaConf

from asr_exp.config.compose import compose, validate
from asr_exp.core.errors import UserError
from asr_exp.decoding.ngram import vocabulary
from asr_exp.runs.folder import load_run, resolve, run_folder, signature

WITH_LM = ["decode=beam", "decode.lm=train-text"]


@pytest.fixture
def trained(trained):
    pytest.importorskip("flashlight.lib.text")
    return trained


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def apart(folder: Path) -> dict[str, dict]:
    """Scores that are not the run's own, by their decoder."""
    scores = [
        json.loads(path.read_text()) | {"folder": path.parent}
        for path in sorted(folder.glob("evaluations/*/result.json"))
    ]
    return {score["protocol"]["decoder"]: score for score in scores}


def test_another_decoder_needs_no_network(folder, tmp_path, no_network):
    own, scored = result(folder), (folder / "hypotheses.test.jsonl").read_bytes()
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    assert result(folder) == own and (folder / "hypotheses.test.jsonl").read_bytes() == scored
    no_network()
    run("evaluate", folder, *QUIET, cwd=tmp_path)  # greedy, from what is kept
    assert result(folder) == own and (folder / "hypotheses.test.jsonl").read_bytes() == scored
    run("evaluate", folder, *WITH_LM, "decode.nbest=3", *QUIET, cwd=tmp_path)
    ((decoder, score),) = apart(folder).items()
    assert (
        decoder.startswith("beam(beam=100, lm=train-text:")
        and "lm_weight=0.5, lexicon=5:" in decoder
        and result(folder) == own
    )
    pairs = lines(score["folder"] / "hypotheses.test.jsonl")
    assert [p["id"] for p in pairs] == [p["id"] for p in lines(folder / "hypotheses.test.jsonl")]
    for pair in pairs:
        assert pair["hypothesis"] == pair["nbest"][0]["text"] and set(pair["hypothesis"].split()) <= {
            "ba",
            "di",
            "go",
            "lu",
            "me",
        }
        scores = [one["score"] for one in pair["nbest"]]
        assert (
            len(scores) == 3
            and scores == sorted(scores, reverse=True)
            and len({one["text"] for one in pair["nbest"]}) == 3
        )
    (lm,) = (folder / "lm").glob("*.arpa")
    assert sorted(vocabulary(lm)) == ["ba", "di", "go", "lu", "me"]
    assert "nbest" not in lines(folder / "hypotheses.test.jsonl")[0]


def test_the_language_model_of_a_run_is_made_by_its_own_text_rules(folder, tmp_path):
    run("evaluate", folder, *WITH_LM, *QUIET, cwd=tmp_path)
    (lm,) = (folder / "lm").glob("*.arpa")
    assert sorted(vocabulary(lm)) == ["ba", "di", "go", "lu", "me"]
    shutil.copy(lm, tmp_path / "m.lm")  # an ARPA file, whatever it is called
    run("evaluate", folder, "decode=beam", "decode.lm=m.lm", *QUIET, cwd=tmp_path)
    train, file = sorted(apart(folder), reverse=True)
    assert train.replace("train-text:", "file:") == file


def test_what_is_kept_is_the_checkpoints_own(folder, tmp_path, no_network):
    """Other weights, another padding and other recordings have other emissions."""
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    (kept,) = (folder / "emissions").iterdir()
    run("evaluate", folder, "model.padding=hf_compat", *QUIET, cwd=tmp_path)
    assert len(list((folder / "emissions").iterdir())) == 2
    weights = folder / "checkpoints/best/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    weights.with_name("checksums.json").unlink()  # they would not be taken for other weights, but for damaged
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    assert len(list((folder / "emissions").iterdir())) == 3


def test_a_run_trained_in_a_precision_that_this_device_lacks_is_scored(folder, tmp_path):
    """A run of a GPU in fp16, scored on a CPU, which has no fp16."""
    expected = result(folder)
    config = OmegaConf.load(folder / "config.yaml")
    config.trainer.precision, config.trainer.tf32 = "fp16", True
    OmegaConf.save(config, folder / "config.yaml")
    run("evaluate", folder, "tracking=none", "trainer.device=cpu", cwd=tmp_path)
    assert result(folder) == expected


def test_damaged_emissions_are_computed_again(folder, tmp_path, capsys):
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    (file,) = (folder / "emissions").rglob("*.safetensors")
    whole, scored = file.read_bytes(), (folder / "hypotheses.test.jsonl").read_bytes()
    file.write_bytes(whole[:-300] + bytes([whole[-300] ^ 64]) + whole[-299:])
    capsys.readouterr()
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    assert capsys.readouterr().out.count(f"{file.name} is damaged") == 1
    assert file.read_bytes() == whole and (folder / "hypotheses.test.jsonl").read_bytes() == scored


@pytest.mark.slow
def test_the_least_recent_make_room(folder, tmp_path, monkeypatch):
    run("evaluate", folder, *QUIET, cwd=tmp_path)
    run("evaluate", folder, "split=dev", *QUIET, cwd=tmp_path)
    sizes = [sum(file.stat().st_size for file in (folder / "emissions").rglob("*.safetensors"))]
    monkeypatch.setattr("asr_exp.evaluation.emission_cache.ROOM", 1.25 * sizes[0])

    def kept() -> list[str]:
        sizes.append(sum(file.stat().st_size for file in (folder / "emissions").rglob("*.safetensors")))
        return sorted(path.name.partition("-")[0] for path in (folder / "emissions").iterdir())

    run("evaluate", folder, "split=train", "dataset.max_utterances=5", *QUIET, cwd=tmp_path)
    assert kept() == ["dev", "train"] and sizes[-1] <= 1.25 * sizes[0]
    monkeypatch.setattr("asr_exp.evaluation.emission_cache.ROOM", 10)
    run("evaluate", folder, "split=train", *QUIET, cwd=tmp_path)  # too much to be kept: scored all the same
    assert kept() == ["dev", "train"] and result(folder)["splits"]["train"]["utterances"] == 20


@pytest.mark.slow
def test_weights_are_looked_for_on_dev_once(folder, tones, tmp_path, capsys, monkeypatch, no_network):
    for name in ("LM_WEIGHTS", "WORD_SCORES"):
        monkeypatch.setattr(f"asr_exp.evaluation.decoder_tuning.{name}", (0.0, 1.0))
    tuned = ["evaluate", folder, *WITH_LM, "decode.tune=true", "decode.beam=10", *QUIET]
    gone = tones / "test.csv"
    run(*tuned, "split=dev", cwd=tmp_path)
    out = capsys.readouterr().out
    assert "WER of dev by lm_weight" in out and "with decode.lm_weight=" in out
    table = [line for line in out.splitlines() if line.rstrip().endswith("%") and "." in line][:2]
    assert len(table) == 2 and max(len(line) for line in out.partition("\nDone")[0].splitlines()) <= 80
    keys = [*WITH_LM, "decode.tune=true", "decode.beam=10", "decode.hot_words=[mood]", "decode.lm_weight=2"]
    call("transcribe", tones / "test0.wav", f"run={folder}", *keys, *QUIET, cwd=tmp_path)
    no_network()
    (tones / "dev.csv").rename(gone.with_name("dev.gone"))  # neither are dev's recordings needed again
    try:
        run(*tuned, cwd=tmp_path, status=1)  # the network is, for test
    finally:
        gone.with_name("dev.gone").rename(tones / "dev.csv")
    ((decoder, score),) = apart(folder).items()
    found = json.loads((folder / "lm/tuned.json").read_text())
    assert "tuned_on=dev" in decoder and [
        f"lm_weight={w['lm_weight']:g}" in decoder for w in found.values()
    ] == [True]
    assert score["splits"]["dev"]["wer"] is not None


@pytest.mark.slow
def test_a_run_whose_final_decoder_is_a_beam(trained, corpus, tones, tmp_path, monkeypatch):
    for name in ("LM_WEIGHTS", "WORD_SCORES"):
        monkeypatch.setattr(f"asr_exp.evaluation.decoder_tuning.{name}", (0.0, 1.0))
    folder = run(*corpus, *TWO_STEPS, *WITH_LM, "decode.tune=true", "decode.beam=10", cwd=tmp_path)
    score = result(folder)
    assert (
        score["protocol"]["decoder"].startswith("beam(beam=10, lm=train-text:")
        and "tuned_on=dev" in score["protocol"]["decoder"]
    )
    assert folder.name != trained.name
    for split in ("dev", "test"):
        pairs = lines(folder / f"hypotheses.{split}.jsonl")
        assert (
            sum(pair["counts"]["reference_length"] for pair in pairs)
            == score["splits"][split]["reference_length"]
        )
        assert {word for pair in pairs for word in pair["hypothesis"].split()} <= {
            "ba",
            "di",
            "go",
            "lu",
            "me",
        }
    before, scored = (
        result(folder),
        {split: (folder / f"hypotheses.{split}.jsonl").read_bytes() for split in ("dev", "test")},
    )
    for split in ("dev", "test"):
        run("evaluate", folder, f"split={split}", *QUIET, cwd=tmp_path)
        assert (folder / f"hypotheses.{split}.jsonl").read_bytes() == scored[split]
    assert result(folder) == before and not apart(folder)
    said = {pair["id"]: pair["hypothesis"] for pair in lines(folder / "hypotheses.test.jsonl")}
    done = cli("transcribe", f"run={folder}", f"files={tones}/test0.wav", *QUIET, cwd=tmp_path)
    assert done.stdout.strip().splitlines()[-1] == said["test0.wav"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["decode=beam", "decode.lm=gone.arpa"], "decode.lm=gone.arpa: there is no such file"),
        (["decode=beam", "decode.lm=gone.txt"], "decode.lm=gone.txt: there is no such file"),
        (["decode=beam", "decode.lm=empty.txt"], "no text in it to make a language model of"),
        (["decode=beam", "decode.lm=broken.arpa"], "Line 2 of broken.arpa"),
        (["decode=beam", "decode.lm=other.txt"], "can spell none of its words, such as 'xyz'"),
        (["decode=beam", "decode.lexicon=other.txt"], "Line 1 of decode.lexicon=other.txt"),
        (["decode=beam", "decode.tune=true"], "there is none; add decode.lm=train-text"),
        (
            ["decode=beam", 'decode.hot_words=[go,"!!!"]'],
            "decode.hot_words has '!!!', of which the text rules (text=standard-2) leave nothing",
        ),
        ([*WITH_LM, "decode.hot_words=[qu]"], "decode.hot_words: the model cannot spell 'qu'"),
        ([*WITH_LM, "decode.hot_words=[ba ba ba ba ba ba ba]"], "a phrase of more than 6 words"),
    ],
)
def test_what_cannot_be_decoded_with(folder, tmp_path, capsys, settings, words):
    (tmp_path / "empty.txt").write_text("\n ?!\n")
    (tmp_path / "other.txt").write_text("xyz\n")
    (tmp_path / "broken.arpa").write_text("\\data\\\nngrams: 3\n")
    run("evaluate", folder, *settings, *QUIET, cwd=tmp_path, status=2)
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told


@pytest.mark.slow
def test_without_its_training_transcripts(folder, tones, tmp_path, capsys):
    """A model of them that was made before is enough; one that was not cannot be."""
    gone = (tones / "train.csv").rename(tones / "train.gone")
    try:
        run("evaluate", folder, *WITH_LM, *QUIET, cwd=tmp_path, status=2)
        assert "dataset.train=" in capsys.readouterr().err
    finally:
        gone.rename(tones / "train.csv")
    run("evaluate", folder, *WITH_LM, *QUIET, cwd=tmp_path)
    gone = (tones / "train.csv").rename(tones / "train.gone")
    try:
        run("evaluate", folder, *WITH_LM, "split=dev", *QUIET, cwd=tmp_path)
    finally:
        gone.rename(tones / "train.csv")


def test_a_text_goes_through_the_text_rules(folder, tmp_path):
    (tmp_path / "more.txt").write_text("Ba, DI go!\nme lu.\n")
    run("evaluate", folder, "decode=beam", "decode.lm=more.txt", "decode.order=2", *QUIET, cwd=tmp_path)
    run(
        "evaluate",
        folder,
        "decode=beam",
        "decode.lm=more.txt",
        "decode.lexicon=null",
        "decode.hot_words=[Go!]",
        *QUIET,
        cwd=tmp_path,
    )
    words, tokens = sorted(apart(folder), key=len)
    assert all(name.startswith("beam(beam=100, lm=file:") for name in (words, tokens))
    assert "lexicon=5:" in words and "lexicon" not in tokens and "hot_words=go," in tokens


# ------------------------------------------------------------------------------------------------------------
# keys


def test_what_is_at_its_default_is_not_in_the_signature(tmp_path, monkeypatch):
    """A run made before there were keys for beam search has the signature that the same ask has now."""
    monkeypatch.chdir(tmp_path)
    now = compose()
    asked = resolve(now)
    asked["decode"] = {"name": "greedy", "settings": {}}
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").write_text(json.dumps(asked))
    assert signature(load_run("old")) == signature(now)
    assert (
        signature(compose(["decode=beam", "decode.nbest=5"]))
        == signature(compose(["decode=beam", "decode.lm=none"]))
        != signature(now)
    )
    assert signature(compose(["decode=beam", "decode.lm=a.txt"])) == signature(
        compose(["decode=beam", f"decode.lm={tmp_path}/a.txt"])
    )
    different = ["beam=9", "lm=train-text", "lm_weight=1", "hot_words=[a]", "lexicon=null", "tune=true"]
    assert len({signature(compose(["decode=beam", f"decode.{one}"])) for one in different}) == len(different)
    assert run_folder(now).name == signature(now)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["decode.lm=train-text"],
            "decode.lm=train-text is a key of decode=beam, and the decoder is greedy; add decode=beam",
        ),
        (["decode.hot_words=[robot]"], "add decode=beam"),
        (["decode=beam", "decode.settings.beam=8"], "keys of its own"),
        (["decode=beam", 'decode.hot_words=[" "]'], "empty word"),
        (["decode=beam", 'decode.hot_words=["???"]'], "decode.hot_words has '???' in it"),
        (
            ["decode=beam", "decode.lm_weight=3"],
            "decode.lm_weight=3.0 is of a language model, and there is none; add decode.lm=train-text",
        ),
        (["decode=beam", "decode.lm=none", "decode.order=4"], "decode.order=4 is of a language model"),
        (
            ["dataset=timit-phones", "dataset.root=/d", "decode=beam", "decode.lexicon=a.txt"],
            "the model emits phones",
        ),
        (["decode=beam", "decode.order=7"], "at most 6"),
    ],
)
def test_keys_that_contradict_each_other(tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        validate(compose(settings))
    assert words in str(error.value) and len(str(error.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------
# slow


@pytest.mark.slow
def test_two_ranks_score_as_one(trained, tmp_path):
    one, two = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("one", "two"))
    settings = [*WITH_LM, "decode.tune=true", "decode.beam=10", "trainer.device_seconds=4", *QUIET]
    cli("evaluate", one, *settings, cwd=tmp_path)
    cli("evaluate", two, *settings, "trainer.devices=2", cwd=tmp_path)
    (first,), (second,) = apart(one).items(), apart(two).items()
    assert first[0] == second[0] and first[1]["splits"] == second[1]["splits"]
    said = [lines(score["folder"] / "hypotheses.test.jsonl") for _, score in (first, second)]
    assert said[0] == said[1]


@pytest.mark.slow
def test_the_language_model_lowers_the_demos_rate(tmp_path):
    """A demo of a quarter of its length: its transcripts alone make a model that mends most of what it hears
    amiss.
    """
    pytest.importorskip("flashlight.lib.text")
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    folder = run("trainer.max_steps=220", "trainer.eval_every=220", *QUIET, cwd=tmp_path)
    greedy = {split: result(folder)["splits"][split]["wer"] for split in ("dev", "test")}
    assert all(0.02 < rate < 0.9 for rate in greedy.values())
    for settings in ([], ["decode.lexicon=null"], ["decode.tune=true"]):
        for split in ("dev", "test"):
            run("evaluate", folder, *WITH_LM, *settings, f"split={split}", *QUIET, cwd=tmp_path)
    found = [
        json.loads(path.read_text())["splits"].popitem() for path in folder.glob("evaluations/*/result.json")
    ]
    assert sorted(split for split, _ in found) == ["dev"] * 3 + ["test"] * 3
    assert [(split, summary["wer"]) for split, summary in found if summary["wer"] > 0.5 * greedy[split]] == []
