"""A checkpoint scored as it is: `evaluate run=CHECKPOINT`, and a run of no steps that keeps its head. Against
transformers and jiwer.
"""

import csv
import json
import shutil
from pathlib import Path

import jiwer
import pytest
import soundfile
import torch
import transformers
from harness import QUIET, SMALL, call, cli, lines, make_corpus, result, save_backbone, write_manifest
from safetensors.torch import load_file, save_file

from asr_exp.data.tokenizer import Tokenizer
from asr_exp.runs.folder import load_run, signature

TOKENS = ["[PAD]", "[UNK]", "|", *"ABDEGILMOU"]
AS_IT_IS = ["model=hf", "model.head=keep", "trainer.max_steps=0"]
RATES = (
    "wer",
    "cer",
    "substitutions",
    "deletions",
    "insertions",
    "reference_length",
    "utterances",
    "skipped",
    "coverage",
    "ci95",
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The folder of a fine-tuned recogniser of capitals, whose head of random weights says a lot."""
    place = tmp_path_factory.mktemp("tuned")
    backbone, folder = save_backbone("wav2vec2", "layer", place / "backbone"), place / "upper"
    torch.manual_seed(3)
    network = transformers.AutoModelForCTC.from_pretrained(
        backbone, vocab_size=len(TOKENS), pad_token_id=0, ignore_mismatched_sizes=True
    )
    with torch.no_grad():
        network.lm_head.weight.mul_(50)
        network.lm_head.bias[:] = torch.tensor([0.0, -1e4, 8.0] + 10 * [0.0])  # no [UNK], and spaces
    network.save_pretrained(folder)
    Tokenizer(TOKENS).save(folder)
    transformers.AutoFeatureExtractor.from_pretrained(backbone).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, tuned):
    """A folder to stand in, with the checkpoint in ./upper and the test split alone in ./data."""
    make_corpus(tmp_path / "data")
    for gone in [*tmp_path.glob("data/train*"), *tmp_path.glob("data/dev*")]:
        gone.unlink()
    shutil.copytree(tuned, tmp_path / "upper")
    return tmp_path


TEST = ["dataset=csv", "dataset.test=data/test.csv", "text=upper", *QUIET]
ASKED = ["run=upper", *TEST]


def scored(*arguments, cwd: Path, status: int = 0) -> Path:
    """The run folder under ./outputs, after `evaluate`."""
    call("evaluate", *arguments, cwd=cwd, status=status)
    (folder,) = {path.parent for path in (cwd / "outputs").rglob("config.yaml")}
    return folder


def by_transformers(checkpoint: Path, manifest: Path) -> dict[str, tuple[str, str]]:
    """file -> (reference in capitals, what a bare pipeline says)."""
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu")
    with manifest.open() as file:
        rows = [(row["file"], row["text"].upper()) for row in csv.DictReader(file)]
    return {
        name: (text, pipe(soundfile.read(manifest.parent / name)[0])["text"].strip()) for name, text in rows
    }


# ------------------------------------------------------------------------------------------------------------
# the score


def test_the_score_is_that_of_transformers_and_jiwer(place, cache):
    """Of a dataset whose other splits are not there. The folder is one of a run, and the same ask finds it
    again.
    """
    broken = ["dataset.train=gone.csv", "dataset.dev=upper/config.json"]
    folder = scored(*ASKED, *broken, cwd=place)
    want = by_transformers(place / "upper", place / "data/test.csv")
    assert {
        one["id"]: (one["reference"], one["hypothesis"]) for one in lines(folder / "hypotheses.test.jsonl")
    } == want
    references, said = (list(side) for side in zip(*want.values(), strict=True))
    assert len(set(said)) == 5 and all(" " in text for text in said[:2])
    words, test = jiwer.process_words(references, said), result(folder)["splits"]["test"]
    assert test["wer"] == pytest.approx(words.wer) and test["cer"] == pytest.approx(
        jiwer.cer(references, said)
    )
    assert [test[key] for key in ("substitutions", "deletions", "insertions")] == [
        words.substitutions,
        words.deletions,
        words.insertions,
    ]
    assert (
        test["coverage"] == 1 and test["utterances"] == 5 and test["skipped"] == 0 and set(RATES) < set(test)
    )
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "data.json",
        "data.npz",
        "environment.json",
        "emissions",
        "quarantine.jsonl",
        "hypotheses.test.jsonl",
        "result.json",
    }
    assert (
        folder.parent == place / "outputs/csv/hf"
        and folder.name == signature(load_run(folder)) == result(folder)["signature"]
    )
    assert (
        result(folder)["status"] == "finished"
        and result(folder)["best"] is None
        and result(folder)["train"]["steps"] == 0
    )
    protocol = result(folder)["protocol"]
    assert (protocol["text"], protocol["decoder"], protocol["split"], len(protocol["hash"])) == (
        "upper-2",
        "greedy",
        ["test.csv"],
        12,
    )
    assert scored(*ASKED, *broken, cwd=place) == folder


def test_a_run_of_no_steps_scores_the_same_and_reads_the_test_split_alone(place, cache, capsys):
    call(*TEST, *AS_IT_IS, "model.checkpoint=upper", "output_root=trained", cwd=place)
    (trained,) = place.glob("trained/csv/hf/*")
    assert "flatters" not in capsys.readouterr().out
    folder = scored(*ASKED, cwd=place)
    assert folder.name == trained.name and result(folder) == result(trained)
    assert (folder / "hypotheses.test.jsonl").read_bytes() == (trained / "hypotheses.test.jsonl").read_bytes()
    pipe = transformers.pipeline(
        "automatic-speech-recognition", model=str(trained / "checkpoints/best"), device="cpu"
    )
    first = lines(trained / "hypotheses.test.jsonl")[0]
    assert pipe(soundfile.read(place / "data" / first["id"])[0])["text"].strip() == first["hypothesis"]
    call(*TEST, *AS_IT_IS, "model.checkpoint=upper", "output_root=trained", cwd=place)
    assert "This run is finished" in capsys.readouterr().out


def test_another_decoder_split_and_text_lie_as_those_of_a_run_do(place, cache, no_network):
    pytest.importorskip("flashlight.lib.text")
    shutil.copytree(place / "data", place / "more")
    both = [*ASKED, "dataset.dev=more/test.csv"]
    folder = scored(*both, cwd=place)
    own = result(folder)
    assert scored(*both, "split=dev", cwd=place) == folder  # the same recordings
    both_scored = result(folder)
    assert both_scored.pop("data").keys() == {"dev", "test"} and own.pop("data").keys() == {"test"}
    assert both_scored == {**own, "splits": {**own["splits"], "dev": own["splits"]["test"]}}
    assert (folder / "hypotheses.dev.jsonl").read_bytes() == (folder / "hypotheses.test.jsonl").read_bytes()
    own = result(folder)
    no_network()
    assert scored(*both, "decode=beam", "decode.word_score=-2", cwd=place) == folder  # by what is kept
    call("evaluate", folder, "text.rules=[upper,{remove: B}]", *QUIET, cwd=place)
    apart = [json.loads(path.read_text())["protocol"] for path in folder.glob("evaluations/*/result.json")]
    assert {one["decoder"].partition("(")[0] for one in apart} == {"beam", "greedy"} and result(folder) == own


def test_dev_first(place, cache):
    """The protocol of result.json is that of test once there is one; train goes on to it where evaluate has
    scored dev alone.
    """
    both = [*TEST, "dataset.dev=data/test.csv"]
    folder = scored("run=upper", *both, "split=dev", cwd=place)
    assert set(result(folder)["splits"]) == {"dev"}
    call(*both, *AS_IT_IS, "model.checkpoint=upper", cwd=place)
    assert set(result(folder)["splits"]) == {"dev", "test"} and result(folder)["protocol"]["split"] == [
        "test.csv"
    ]


def test_other_weights_at_the_same_place(place, cache):
    """Nothing of the weights before is taken for theirs."""
    both = [*ASKED, "dataset.dev=data/test.csv"]
    folder = scored(*both, cwd=place)
    scored(*both, "split=dev", cwd=place)
    weights = load_file(place / "upper/model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].flip(1).contiguous()
    save_file(weights, place / "upper/model.safetensors", {"format": "pt"})
    before = lines(folder / "hypotheses.test.jsonl")
    scored(*both, cwd=place)
    assert set(result(folder)["splits"]) == {"test"} and lines(folder / "hypotheses.test.jsonl") != before
    want = by_transformers(place / "upper", place / "data/test.csv")
    assert [one["hypothesis"] for one in lines(folder / "hypotheses.test.jsonl")] == [
        said for _, said in want.values()
    ]


def test_what_it_leaves_is_compared_reported_transcribed_and_put_in_a_table(place, cache, capsys):
    shutil.copytree(place / "upper", place / "other")
    weights = load_file(place / "other/model.safetensors")
    weights["lm_head.bias"][2] = 4.0
    save_file(weights, place / "other/model.safetensors", {"format": "pt"})
    for name in ("upper", "other"):
        call("evaluate", f"run={name}", *TEST, cwd=place)
    folders = sorted((place / "outputs/csv/hf").iterdir())
    wers = {
        Path(load_run(one).model.checkpoint).name: result(one)["splits"]["test"]["wer"] for one in folders
    }
    assert len(folders) == 2 and wers["upper"] != wers["other"]
    call("compare", *folders, cwd=place)
    (compared,) = place.glob("outputs/comparisons/*/compare.json")
    rates = json.loads(compared.read_text())["metrics"]["wer"]
    assert sorted([rates["a"]["value"], rates["b"]["value"]]) == pytest.approx(sorted(wers.values()))
    capsys.readouterr()
    call("table", *TEST, *AS_IT_IS, "model.checkpoint=upper,other", cwd=place)
    table = capsys.readouterr().out
    assert all(
        any(name in row and f"{100 * wer:.2f}" in row for row in table.splitlines())
        for name, wer in wers.items()
    )
    call("report", folders[0], *QUIET, cwd=place)
    assert "5 utterances with sound" in capsys.readouterr().out
    first = lines(folders[0] / "hypotheses.test.jsonl")[0]
    call("transcribe", f"data/{first['id']}", f"run={folders[0]}", *QUIET, cwd=place)
    assert capsys.readouterr().out.strip() == first["hypothesis"]
    call("export", f"run={folders[0]}", "out=exported", *QUIET, cwd=place)
    assert "taken as it is from the folder" in (place / "exported/README.md").read_text()


@pytest.mark.parametrize(("settings", "words"), [
    (["run=nowhere"], "run=nowhere cannot be loaded: there is no folder of that name"),
    (["run=./a/b"], "run=./a/b is not a folder"),
    (["run=data"], "run=data cannot be loaded: it has no config.json"),
    (["run=lab/none"], "run=lab/none cannot be loaded"),
    (["run=bare"], "run=bare is no fine-tuned recogniser"),
    (["run=upper", "model=tiny"], "model=tiny contradicts run="),
    (["run=upper", "trainer.max_steps=5"], "trainer.max_steps=5 contradicts run="),
    (["run=upper", "dataset.test=gone.csv"], "dataset.test=gone.csv: there is no such file"),
])  # fmt: skip
def test_what_cannot_be_scored(place, backbone, capsys, settings, words):
    shutil.copytree(backbone("wav2vec2-layer"), place / "bare")
    call("evaluate", *TEST, *settings, cwd=place, status=2)
    assert words in capsys.readouterr().err and not (place / "outputs").exists()


# ------------------------------------------------------------------------------------------------------------
# characters that the vocabulary lacks


def test_a_vocabulary_in_the_other_case_stops_before_any_audio(place, cache, capsys):
    call("evaluate", *ASKED, "text=standard", cwd=place, status=2)
    told = capsys.readouterr().err
    counts = {
        sign: sum(
            text.lower().count(sign)
            for text, _ in by_transformers(place / "upper", place / "data/test.csv").values()
        )
        for sign in "lu"
    }
    # of ten letters, eight are named
    assert all(f"{sign!r} {n}" in told for sign, n in counts.items()) and "and 2 more" in told
    assert "5 of 5 utterances of test cannot be recognised in full. Give text=upper, which mends it." in told
    assert not (place / "outputs").exists() and not list(cache.rglob("*.i16"))
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_so_does_training(tuned, corpus, tmp_path, cache, capsys):
    """Without [UNK] as with it; by a vocabulary that is given as by a checkpoint's."""
    (tmp_path / "v.json").write_text(
        json.dumps({token: n for n, token in enumerate(t for t in TOKENS if t != "[UNK]")})
    )
    for settings in (
        ["model=hf", f"model.checkpoint={tuned}", "model.head=keep"],
        ["model=tiny-random", "tokenizer.vocabulary=v.json"],
    ):
        call(*corpus, *settings, "trainer.max_steps=2", *QUIET, cwd=tmp_path, status=2)
        told = capsys.readouterr().err
        assert (
            "20 of 20 utterances of train hold nothing else and are left out; 5 of 5 utterances of dev"
            in told
        )
        assert "Give text=upper" in told and not [path for path in cache.rglob("*") if path.is_file()]


def test_a_few_are_told_of_once_and_scored(place, cache, capsys):
    """As many as there are: in two of five references an x, in one of them an ä."""
    with (place / "data/test.csv").open() as file:
        rows = [list(row.values()) for row in csv.DictReader(file)]
    rows[1][1], rows[3][1] = rows[1][1] + " bäx", rows[3][1] + " xx"
    write_manifest(place / "data/test.csv", rows)
    folder = scored(*ASKED, cwd=place)
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "vocabulary lacks" in line]
    assert (
        told == "The vocabulary lacks characters of the transcripts (text=upper-2; 'X' 3, 'Ä' 1): 2 of 5"
        " utterances of test cannot be recognised in full. Have text.rules replace or remove what the"
        " vocabulary lacks, or train a new head (model.head=new)."
    )
    assert lines(folder / "hypotheses.test.jsonl")[1]["reference"].endswith("BÄX")


@pytest.mark.parametrize(("strange", "unknown", "told"), [
    (["QQQ"], True, ""),
    (["QQQ"] * 3, True, "3 of 101 utterances of train hold nothing else and are left out. "),
    (["BAQ"] * 3, True, ""),
    (["BAQ"] * 3, False, "3 of 101 utterances of train are trained on without them. "),
])  # fmt: skip
def test_training_tolerates_one_in_a_hundred(tmp_path, cache, capsys, strange, unknown, told):
    """Utterances that are left out, or lose characters: what becomes [UNK] loses none."""
    make_corpus(tmp_path / "data", train=4, rest=2)
    texts = strange + ["BA DI GO"] * (101 - len(strange))
    write_manifest(
        tmp_path / "data/train.csv", [(f"train{i % 4}.wav", text, "s") for i, text in enumerate(texts)]
    )
    (tmp_path / "v.json").write_text(
        json.dumps({token: n for n, token in enumerate(t for t in TOKENS if unknown or t != "[UNK]")})
    )
    splits = [f"dataset.{name}=data/{name}.csv" for name in ("train", "dev", "test")]
    call(
        "dataset=csv",
        *splits,
        *SMALL,
        "tokenizer.vocabulary=v.json",
        "trainer.max_steps=1",
        "trainer.batch_seconds=1",
        "text=upper",
        *QUIET,
        cwd=tmp_path,
    )
    lacking = [line for line in capsys.readouterr().out.splitlines() if "vocabulary lacks" in line]
    assert len(lacking) == bool(told) and told in "".join(lacking)


def test_a_vocabulary_made_of_the_transcripts_never_stops_a_run(corpus, tmp_path, cache, capsys):
    """Test in capitals, which training has not seen: told of, and scored."""
    train, dev, test = (word.partition("=")[2] for word in corpus[1:])
    with open(test) as file:
        rows = [(str(Path(test).parent / row["file"]), row["text"].upper()) for row in csv.DictReader(file)]
    write_manifest(tmp_path / "test.csv", rows, ("file", "text"))
    call(
        "dataset=csv",
        f"dataset.train={train}",
        f"dataset.dev={dev}",
        "dataset.test=test.csv",
        "text=none",
        "model=tiny-random",
        "trainer.max_steps=1",
        "trainer.batch_seconds=2",
        *QUIET,
        cwd=tmp_path,
    )
    (told,) = [line for line in capsys.readouterr().out.splitlines() if "vocabulary lacks" in line]
    assert "5 of 5 utterances of test" in told and "Give text=standard, which mends it." in told


# ------------------------------------------------------------------------------------------------------------
# slow


@pytest.mark.slow
def test_two_ranks_and_an_id_of_the_hub(place, tuned):
    """Out of the hub's cache, by the commit there."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = place / "hf/hub/models--lab--upper"
    shutil.copytree(tuned, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(commit)
    hub = {"HF_HOME": str(place / "hf")}
    cli("evaluate", "run=lab/upper", *TEST, "trainer.devices=2", "output_root=two", cwd=place, **hub)
    cli("evaluate", "run=lab/upper", *TEST, cwd=place, **hub)
    cli("evaluate", *ASKED, cwd=place)
    (two,), of_hub, of_folder = (
        place.glob("two/csv/hf/*"),
        *sorted(place.glob("outputs/csv/hf/*"), key=lambda p: p.stat().st_ctime),
    )
    assert result(two) == result(of_hub) and result(of_hub)["splits"] == result(of_folder)["splits"]
    assert result(of_hub)["checkpoint"]["name"] == "lab/upper"
    assert [len(list(one.glob("emissions/*/*"))) for one in (two, of_hub)] == [1, 1]
