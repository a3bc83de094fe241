"""Every YAML file under conf is a test case: it composes, it is valid, and it is called what its file is
called.
"""

from pathlib import Path

import pytest
import yaml

from asr_exp.config.compose import compose, validate
from asr_exp.config.groups import choices, conf_folder
from asr_exp.core.errors import UserError

CONF = conf_folder()
FILES = [
    path.relative_to(CONF).with_suffix("")
    for path in sorted(CONF.rglob("*.yaml"))
    if path.parent != CONF and path.name[0] != "_"
]

# The names that users rely on.
PROMISED = {
    "dataset": (
        "timit timit-phones librispeech-100h librispeech-960h common-voice common-voice-phones minds14 mls"
        " csv json hub demo"
    ),
    "model": (
        "wav2vec2-base wav2vec2-large-lv60 xlsr-53 xls-r-300m xls-r-1b hubert-base hubert-large-ll60k"
        " distilhubert wavlm-base wavlm-base-plus wavlm-large sew-small-100k sew-mid-100k sew-d-base"
        " unispeech-large-1500h-cv unispeech-sat-base data2vec-audio-base hf tiny tiny-random"
    ),
    "text": "standard standard-1 upper upper-1 hf_compat",
    "decode": "greedy beam",
    "augment": "none default",
    "optimizer": "adamw sgd",
    "schedule": "linear cosine constant tri-stage",
    "tracking": "wandb tensorboard none",
    "protocol": "standard hf_compat",
    "debug": "overfit one-step rehearsal",
}
COUNTS = {"dataset": 15, "model": 20, "decode": 2, "augment": 6, "schedule": 4, "tracking": 3, "debug": 4}

# Text rules whose name is not that of the file: newer rules got a name of their own.
NAMES = {"standard": "standard-2", "standard-1": "standard", "upper": "upper-2", "upper-1": "upper"}

# What a choice cannot do without.
NEEDS = {
    "phone": ["text=espeak"],
    "hf": ["model.checkpoint=somewhere/something"],
    "tiny-recordings": ["model.checkpoint=somewhere/something"],
    "hub": ["dataset.hub.id=somewhere/something"],
    "csv": ["dataset.train=a.csv"],
    "tsv": ["dataset.train=a.tsv"],
    "json": ["dataset.train=a.json"],
    "jsonl": ["dataset.train=a.jsonl"],
    "common-voice": ["dataset.language=tr"],
    "common-voice-phones": ["dataset.language=tr"],
    "mls": ["dataset.language=german"],
}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_it_composes_and_is_valid(file):
    group, name = file.parts[0], "/".join(file.parts[1:])
    config = compose([f"{group}={name}", *NEEDS.get(name, [])])
    validate(config)
    assert (CONF / file).with_suffix(".yaml").read_text(encoding="utf-8").startswith("# "), (
        "a file says in its first line what it is"
    )
    if group in ("dataset", "model", "text", "decode", "augment", "schedule", "tracking", "protocol"):
        assert config[group].name == (NAMES.get(name, name) if group == "text" else name)


@pytest.mark.parametrize("group", PROMISED)
def test_the_promised_choices_are_there(group):
    assert set(PROMISED[group].split()) <= set(choices([CONF])[group])


@pytest.mark.parametrize("group", COUNTS)
def test_the_count(group):
    assert len(choices([CONF])[group]) == COUNTS[group]


def test_no_file_builds_objects_by_itself():
    texts = [path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")]
    assert len(texts) > 50
    assert not any("_target_" in text for text in texts)


def test_every_checkpoint_is_named_once():
    models = [yaml.safe_load(path.read_text()) for path in (CONF / "model").glob("*.yaml")]
    ids = [model["checkpoint"] for model in models if model.get("checkpoint")]
    assert len(ids) == len(set(ids)) == 18 and all("/" in one for one in set(ids) - {"builtin:tiny"})


def test_nothing_random_is_nothing_random():
    augment = compose(["augment=none"]).augment
    assert [augment.mask_time_prob, augment.mask_feature_prob, augment.dropout, augment.layerdrop] == [
        0,
        0,
        0,
        0,
    ]


def test_a_debug_file_changes_the_whole_run():
    config = compose(["debug=overfit"])
    assert (config.dataset.max_utterances, config.augment.name, config.tracking.name) == (8, "none", "none")
    config = compose(["debug=one-step", "model=wav2vec2-base"])
    assert config.trainer.max_steps == 1 and Path(config.model.checkpoint) == Path("facebook/wav2vec2-base")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["dataset.root=/data/TIMIT"], "dataset=demo is none"),
        (["dataset=timit", "dataset.root=/data/TIMIT", "tokenizer=phone"], "text=standard-2 makes none"),
        (["dataset=timit-phones", "dataset.root=/data/TIMIT", "text=standard"], "use text=phones"),
        (["text=espeak", "tokenizer=character"], "text=espeak gives phones, and tokenizer.unit=character"),
        (["text=phones", "tokenizer=character"], "text=phones gives phones"),
        (["text.rules=[lower,espeak]"], r"text=standard-2\* gives phones, .* give tokenizer=phone"),
        (["text.name=mine", "text.rules=[espeak,{replace: {a: b}}]"], "text=mine gives phones"),
        (["dataset=timit-phones", "dataset.root=/x", "tokenizer=character"], "text=phones gives phones"),
    ],
)
def test_what_a_run_cannot_mean_is_refused(asked, told):
    with pytest.raises(UserError, match=told):
        validate(compose(asked))


@pytest.mark.parametrize("text", ["espeak", "phones"])
def test_rules_that_give_phones_bring_the_tokenizer_of_phones(text):
    config = compose([f"text={text}"])
    validate(config)
    assert (config.tokenizer.unit, config.tokenizer.inventory) == ("phone", "espeak")
    assert compose([f"text={text}", "tokenizer=phone-timit"]).tokenizer.inventory == "timit48"
    timit = compose(["dataset=timit-phones", "dataset.root=/x", "text=phones"])
    assert timit.tokenizer.inventory == "timit48"  # the dataset's own choice
