"""What a user adds from their own folder: a dataset and a model in a YAML file each, parts in a plugin, a
fine-tuned checkpoint.
"""

import sys
from pathlib import Path

import pytest
import soundfile
import transformers
import yaml
from harness import QUIET, SMALL, latest, lines, result, run

from asr_exp.builders.data import build_data
from asr_exp.cli.help import page
from asr_exp.config.compose import compose
from asr_exp.data.corpora.base import Corpus, FileAudio, Utterance, Utterances, register_reader
from asr_exp.data.tokenizer import Tokenizer

STEPS = ["trainer.max_steps=3", "trainer.eval_every=3", "trainer.batch_seconds=6", *QUIET]


def manifests(corpus: list[str]) -> dict[str, str]:
    return {
        key.removeprefix("dataset."): path for key, _, path in (word.partition("=") for word in corpus[1:])
    }


def write_yaml(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def test_a_dataset_and_a_model_by_a_yaml_file_each(corpus, backbone, tmp_path, capsys):
    write_yaml(
        tmp_path / "conf/dataset/tones.yaml", {"name": "tones", "reader": "manifest", **manifests(corpus)}
    )
    write_yaml(
        tmp_path / "conf/model/mine.yaml",
        {"name": "mine", "checkpoint": str(backbone("hubert-group")), "freeze_encoder_steps": 1},
    )
    folder = run("dataset=tones", "model=mine", *STEPS, cwd=tmp_path)
    assert folder.parts[-3:-1] == ("tones", "mine") and result(folder)["splits"]["test"]["utterances"] == 5
    run("dataset=tonse", "model=mine", *STEPS, cwd=tmp_path, status=2)
    assert "'tones'" in capsys.readouterr().err


def test_they_are_in_the_help(tmp_path, monkeypatch):
    write_yaml(tmp_path / "conf/dataset/tones.yaml", {"name": "tones", "reader": "manifest"})
    monkeypatch.chdir(tmp_path)
    from asr_exp.cli.arguments import commands

    assert "tones" in page(None, commands())


def test_a_model_of_random_weights_by_a_yaml_file(corpus, tmp_path):
    small = dict(word.removeprefix("model.config.").split("=") for word in SMALL[1:])
    settings = {key: yaml.safe_load(value) for key, value in small.items()}
    settings |= {
        "conv_kernel": [64, 8, 4, 4],
        "conv_stride": [16, 5, 2, 2],
        "num_feat_extract_layers": 4,
        "num_attention_heads": 4,
    }
    write_yaml(
        tmp_path / "conf/model/mine.yaml",
        {"name": "mine", "architecture": "wavlm", "config": settings, "freeze_front_end": False},
    )
    folder = run(*corpus, "model=mine", *STEPS, cwd=tmp_path)
    assert transformers.AutoConfig.from_pretrained(folder / "checkpoints/best").model_type == "wavlm"


PLUGIN = """
import torch
from asr_exp.plugins import Corpus, FileAudio, Utterance, register_reader, register_rule
from asr_exp.plugins import register_decoder, register_optimizer, register_schedule, register_tracker

@register_reader("folder-of-tones")
def read(dataset, cache):
    import csv, pathlib
    def rows(split):
        with (pathlib.Path(dataset.root) / f"{split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        root = pathlib.Path(dataset.root)
        return [Utterance(row["file"], FileAudio(str(root / row["file"])), row["text"]) for row in rows]
    return Corpus({split: rows(split) for split in ("train", "dev", "test")})

@register_rule("shout")
def shout(argument, language):
    return lambda text: text.upper() + "!"

@register_decoder("always-ba")
def decoder(tokenizer):
    return lambda logits, frames: ["BA!"] * len(frames)

@register_optimizer("plain")
def plain(groups, lr, **settings):
    return torch.optim.SGD(groups, lr=lr)

@register_schedule("halves")
def halves(hold, final_scale):
    return lambda t: 0.5

@register_tracker("a-list")
class Listed:
    steps = []
    def __init__(self, *args, **settings): pass
    def log(self, metrics, step): self.steps.append(step)
    def table(self, name, rows, step): pass
    def finish(self, summary, failed): pass
"""


def test_parts_from_a_plugin(corpus, tmp_path, monkeypatch):
    (tmp_path / "tones_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    root = Path(manifests(corpus)["train"]).parent
    write_yaml(
        tmp_path / "conf/dataset/tones.yaml",
        {"name": "tones", "reader": "folder-of-tones", "root": str(root)},
    )
    write_yaml(tmp_path / "conf/text/loud.yaml", {"name": "loud", "rules": ["shout"]})
    parts = [
        "text=loud",
        "decode.name=always-ba",
        "optimizer.name=plain",
        "schedule.name=halves",
        "schedule.warmup_steps=0",
    ]
    folder = run(
        "plugins=[tones_plugin]",
        "dataset=tones",
        *SMALL,
        *parts,
        *STEPS,
        "optimizer.lr=0.02",
        "tracking.name=a-list",
        cwd=tmp_path,
    )
    assert sys.modules["tones_plugin"].Listed.steps
    pairs = lines(folder / "hypotheses.test.jsonl")
    assert {p["hypothesis"] for p in pairs} == {"BA!"} and all(
        p["reference"].isupper() and p["reference"].endswith("!") for p in pairs
    )
    assert {line["train/lr"] for line in lines(folder / "metrics.jsonl") if "train/lr" in line} == {0.01}
    assert (
        result(folder)["protocol"]["decoder"] == "always-ba" and result(folder)["protocol"]["text"] == "loud"
    )


@pytest.mark.parametrize("key", ["dataset.reader", "decode.name", "optimizer.name", "schedule.name"])
def test_a_name_that_nothing_registers(corpus, tmp_path, capsys, key):
    run(*latest([*corpus, *SMALL, *STEPS, f"{key}=nobodys"]), cwd=tmp_path, status=2)
    err = capsys.readouterr().err
    assert "nobodys" in err and key in err


def test_a_plugin_that_is_not_there(corpus, tmp_path, capsys):
    run(*corpus, *SMALL, *STEPS, "plugins=[no_such_module]", cwd=tmp_path, status=2)
    assert "no_such_module" in capsys.readouterr().err and "no_such_module" not in sys.modules


def test_a_fine_tuned_checkpoint_keeps_its_head(corpus, backbone, tmp_path):
    """Its own vocabulary, in its own order, its blank first: untouched, it transcribes as transformers'
    pipeline does with it.
    """
    import torch

    tokens = ["[PAD]", "[UNK]", "|", *"abdegilmou"]
    tuned = tmp_path / "tuned"
    torch.manual_seed(3)
    head = {"vocab_size": len(tokens), "pad_token_id": 0, "ignore_mismatched_sizes": True}
    network = transformers.AutoModelForCTC.from_pretrained(backbone("wavlm-layer"), **head)
    with torch.no_grad():
        network.lm_head.weight.mul_(50)
    network.save_pretrained(tuned)
    Tokenizer(tokens).save(tuned)
    transformers.AutoFeatureExtractor.from_pretrained(backbone("wavlm-layer")).save_pretrained(tuned)
    keep = ["model=hf", f"model.checkpoint={tuned}", "model.head=keep", "trainer.max_steps=0"]
    folder = run(*latest([*corpus, *STEPS, *keep]), cwd=tmp_path)
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(tuned))
    audio = Path(manifests(corpus)["test"]).parent
    pairs = lines(folder / "hypotheses.test.jsonl")
    assert [p["hypothesis"] for p in pairs] == [
        pipe(soundfile.read(audio / p["id"])[0])["text"].strip() for p in pairs
    ]
    assert len({p["hypothesis"] for p in pairs}) == 5 and all(len(p["hypothesis"]) > 3 for p in pairs)


def test_a_reader_finds_the_one_split_that_is_needed_in_its_section(corpus):
    """It may read that alone; the config that names the dataset is left as it was."""
    sections = []

    @register_reader("recorder")
    def read(dataset, cache):
        sections.append(dataset)
        row = Utterance("a", FileAudio("a.wav"), f"{dataset.language} {dataset.root}")
        splits = [dataset.only] if dataset.only else ["train", "dev", "test"]
        return Corpus({split: Utterances([row]) for split in splits})

    config = compose([*corpus, "dataset.reader=recorder", "dataset.language=tr", "dataset.root=x${seed}"])
    before = config.copy()
    data = build_data(config, only="dev")
    assert list(data.corpus.splits) == ["dev"] and list(data.texts(["dev"])) == ["tr x42"]
    assert [one.only for one in sections] == ["dev"] and config == before
    build_data(config)
    assert sections[1].only is None
