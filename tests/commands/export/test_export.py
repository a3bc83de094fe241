"""`export`: what it leaves is loaded by transformers, onnxruntime and the hub's own client, and says what the
run said.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml
from harness import NAMES, QUIET, call, lines, result

from asr_exp.commands.export import onnx_export as onnx_file
from asr_exp.commands.export.facts import Facts
from asr_exp.commands.export.model_card import _without_place, model_card
from asr_exp.core.errors import UserError
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings


@pytest.fixture
def folder(trained, tmp_path):
    """That run, for a test of its own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def front_matter(readme: str) -> dict:
    return yaml.safe_load(readme.split("---\n")[1])


# ------------------------------------------------------------------------------------------------------------
# the folder


def test_transformers_reads_the_folder(trained, tmp_path, capsys):
    (tmp_path / "out.new").mkdir()  # somebody's
    call("export", f"run={trained}", "out=out", *QUIET, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.new"]
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor).__name__ == "Wav2Vec2Processor"
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "vocab.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "out"))
    again = transformers.pipeline("automatic-speech-recognition", model=str(trained / "checkpoints/best"))
    manifest = Path(yaml.safe_load((trained / "config.yaml").read_text())["dataset"]["test"][0])
    for line in lines(trained / "hypotheses.test.jsonl"):
        raw, rate = soundfile.read(manifest.parent / f"{line['id']}", dtype="float32")
        said = pipe({"raw": raw, "sampling_rate": rate})["text"]
        assert (
            said.strip() == line["hypothesis"] and said == again({"raw": raw, "sampling_rate": rate})["text"]
        )
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines()[-4:])


def test_the_card_says_what_the_run_says(folder, tmp_path):
    environment = json.loads((folder / "environment.json").read_text())
    environment["command"] = ["python", "-m", "asr_exp", "dataset=csv", f"dataset.train={tmp_path}/train.csv"]
    (folder / "environment.json").write_text(json.dumps(environment))
    call("export", f"run={folder}", "out=out", *QUIET, cwd=tmp_path)
    text, found = (tmp_path / "out/README.md").read_text(), result(folder)
    test = found["splits"]["test"]
    for said in (
        f"{100 * test['wer']:.2f} %",
        found["protocol"]["hash"],
        found["signature"],
        "seed 42",
        "trained from random weights",
        "flatters",
        f"torch {found['versions']['torch']}",
        f"| {test['utterances']} |",
        "python -m asr_exp",
    ):
        assert said in text, said
    assert str(tmp_path) not in text and "dataset.train=.../train.csv" in text
    from huggingface_hub.repocard_data import model_index_to_eval_results

    _, scores = model_index_to_eval_results(front_matter(text)["model-index"])
    shown = {one.metric_type: one.metric_value for one in scores}
    assert shown == {name: pytest.approx(100 * test[name], abs=1e-4) for name in ("wer", "cer")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "stopped", "splits": {}}, "not finished (its status is `stopped`)"),
        ({"rehearsal": True}, "rehearsal"),
        (None, "not finished"),
    ],
)
def test_a_run_that_is_not_finished_claims_no_score(folder, tmp_path, change, said):
    if change is None:
        (folder / "result.json").unlink()
    else:
        (folder / "result.json").write_text(json.dumps(result(folder) | change))
    call("export", f"run={folder}", "out=out", *QUIET, cwd=tmp_path)
    text = (tmp_path / "out/README.md").read_text()
    assert said in text and "model-index" not in front_matter(text)


def test_a_checkpoint_of_somebody_else_is_said_to_be_one(trained, tmp_path):
    shutil.copytree(trained / "checkpoints/best", tmp_path / "theirs")
    call("export", "run=theirs", "out=out", *QUIET, cwd=tmp_path)
    text = (tmp_path / "out/README.md").read_text()
    assert (
        "nothing is known here of its training" in text
        and "language" not in front_matter(text)
        and "## Scores" not in text
    )


def test_a_card_of_phones_a_hub_dataset_and_many_seeds(trained):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    config["model"]["checkpoint"] = "facebook/x"
    config["dataset"]["language"] = "german"
    config["dataset"]["hub"]["id"] = "org/data"
    score = result(trained)["splits"]["test"] | {"wer": None, "cer": None, "per": 0.25, "ci95": [0.2, 0.3]}
    found = result(trained) | {"splits": {"test": score}}
    found["protocol"] |= {"decoder": "beam(size=8)"}
    by = {
        "dataset": "far",
        "hash": "cafe",
        "split": ["x"],
        "decoder": "beam(hot_words=a|b)",
        "padding": "hf_compat",
    }
    other = {"protocol": by, "splits": {"test": score | {"per": 0.5}}}
    text = model_card(
        Facts(
            "n", "n", "hubert", 95_000_000, 16000, True, ["a ", "[UNK] ", "[PAD]"], config, found, {}, [other]
        )
    )
    head = front_matter(text)
    assert (head["base_model"], head["language"], head["datasets"], head["metrics"]) == (
        "facebook/x",
        ["de"],
        ["org/data"],
        ["per"],
    )
    assert "| csv test | beam(size=8) | 25.00 % | 20.00 % to 30.00 % |" in text
    assert r"| far test | beam(hot_words=a\|b) | 50.00 % |" in text
    assert "- Protocol `cafe` (None): text rules none, padding hf_compat." in text
    assert "the decoder beam(size=8); transformers takes the best label" in text
    assert "one at a time" not in text and "fine-tuned from `facebook/x`" in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("dataset.root=/home/me/data/TIMIT", "dataset.root=.../TIMIT"),
        ("x=[~/a/x.csv,/b/y.csv]", "x=[.../x.csv,.../y.csv]"),
        ("model.checkpoint=facebook/wav2vec2-base", "model.checkpoint=facebook/wav2vec2-base"),
        ("x.api_key=123", "x.api_key=..."),
        ("dataset.train=data/x/y.csv", "dataset.train=data/x/y.csv"),
        ("run=../a/b", "run=.../b"),
    ],
)
def test_a_command_without_the_places_of_a_machine(word, shown):
    assert _without_place(word) == shown


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "export needs out=FOLDER"),
        (["out=taken"], "holds other things"),
        (["out=run/x"], "inside a run's folder"),
        (["out=file"], "is a file"),
        (["out=theirs"], "holds other things"),
        (["out=x", "export.push='a b'"], "cannot be a repository"),
    ],
)
def test_what_cannot_be(folder, tmp_path, capsys, settings, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    for name, text in {
        "config.json": "{}",
        "README.md": "---\ntags:\n- ctc\n---\n\n- asr_exp\n",
        "model.safetensors": "x",
    }.items():
        (tmp_path / "theirs" / name).write_text(text)
    call("export", f"run={folder}", *settings, *QUIET, cwd=tmp_path, status=2)
    assert words in capsys.readouterr().err
    assert (tmp_path / "taken/thesis.tex").read_text() == "x" and not (tmp_path / "x").exists()
    assert (tmp_path / "theirs/model.safetensors").read_text() == "x"


def test_what_else_stands_in_a_clone_stays(trained, tmp_path):
    (tmp_path / "out/.git").mkdir(parents=True)
    call("export", f"run={trained}", "out=out", *QUIET, cwd=tmp_path)
    (tmp_path / "out/onnx").mkdir()
    (tmp_path / "out/onnx/model.onnx").write_text("of the model before")
    call("export", f"run={trained}", "out=out", "dataset.language=xx", *QUIET, cwd=tmp_path)
    assert (tmp_path / "out/.git").is_dir() and not (tmp_path / "out/onnx/model.onnx").exists()
    assert "xx" not in front_matter((tmp_path / "out/README.md").read_text()).get("language", [])


# ------------------------------------------------------------------------------------------------------------
# ONNX


def plain(backbone, name: str):
    torch.manual_seed(7)
    network, _ = load_backbone(ModelSettings(str(backbone(name)), attention="eager"), 12, 11)
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_onnx_file_of_every_family_says_what_torch_says(backbone, tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    network, path = plain(backbone, name), tmp_path / "model.onnx"
    assert onnx_file.write_onnx(network, path) <= onnx_file.TOLERANCE
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, made.name) == ("input_values", "logits") and all(
        isinstance(axis, str) for axis in given.shape
    )
    rng = np.random.default_rng(5)
    for shape in ((1, 3_333), (2, 8_000), (1, 50_001)):  # lengths that the export itself did not look at
        values = rng.standard_normal(shape).astype(np.float32)
        with torch.inference_mode():
            ours = network(torch.from_numpy(values)).logits.numpy()
        (theirs,) = session.run(None, {"input_values": values})
        assert theirs.shape == ours.shape and np.ptp(ours) > 1
        np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())
        assert (theirs.argmax(-1) == ours.argmax(-1)).mean() > 0.99


def test_a_file_that_says_something_else_is_not_kept(backbone, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")

    def wrong(model, path):
        model.network.lm_head.bias.data += 1
        axes = {"input_values": {0: "batch", 1: "samples"}}
        torch.onnx.export(
            model,
            (torch.randn(2, 8000),),
            str(path),
            input_names=["input_values"],
            output_names=["logits"],
            dynamo=False,
            dynamic_axes=axes,
        )
        model.network.lm_head.bias.data -= 1

    monkeypatch.setattr(onnx_file, "_trace", wrong)
    with pytest.raises(UserError, match="does not make an ONNX file that equals it: its logits are off by"):
        onnx_file.write_onnx(plain(backbone, "wav2vec2-group"), tmp_path / "onnx/model.onnx")
    assert list((tmp_path / "onnx").iterdir()) == []


@pytest.mark.parametrize(
    ("where", "folder"), [("out", '"out"'), ("org/name", 'snapshot_download("org/name")')]
)
def test_the_card_loads_the_onnx_file_out_of_its_folder(where, folder):
    blank = yaml.safe_load("{dataset: {language: null, hub: {id: null}}, model: {checkpoint: null}}")
    text = model_card(
        Facts("n", where, "hubert", 9, 16000, True, ["a"], blank, onnx={"onnx/model.onnx": "1 MB"})
    )
    code = text.split("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert f"folder = {folder}\n" in code and 'InferenceSession(folder + "/onnx/model.onnx")' in code


@pytest.mark.slow
def test_export_with_onnx_files(trained, tmp_path, capsys, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    call("export", f"run={trained}", "out=out", "export.int8=true", "export.clips=3", *QUIET, cwd=tmp_path)
    told, text = capsys.readouterr().out, (tmp_path / "out/README.md").read_text()
    assert (
        "of 3 texts differ" in told and "0 of 3 texts differ" in text and "onnx" in front_matter(text)["tags"]
    )
    small, whole = tmp_path / "out/onnx/model_quantized.onnx", tmp_path / "out/onnx/model.onnx"
    assert small.stat().st_size < whole.stat().st_size
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    network = transformers.AutoModelForCTC.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    ).eval()
    samples = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    values = processor(audio=samples, sampling_rate=16000, return_tensors="np").input_values
    with torch.inference_mode():
        ours = network(torch.from_numpy(values)).logits.numpy()
    for path, far in ((whole, 1e-4), (small, 0.2)):
        (theirs,) = onnxruntime.InferenceSession(str(path)).run(["logits"], {"input_values": values})
        assert np.abs(theirs - ours).max() < far * np.abs(ours).max()
    monkeypatch.chdir(tmp_path)
    names: dict = {"samples": samples}
    for block in text.split("```python\n")[1:]:  # what the card tells a reader to type
        exec(block.partition("```")[0], names)
    assert np.abs(names["logits"] - ours).max() < 1e-4 * np.abs(ours).max()


def test_without_the_packages_it_is_said_what_to_type(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    call("export", f"run={trained}", "out=out", "export.onnx=true", *QUIET, cwd=tmp_path, status=2)
    assert 'pip install "asr_exp[onnx]"' in capsys.readouterr().err and not (tmp_path / "out").exists()
