"""The published tables: every row composes, is valid, and says what its source says. The numbers are written
out here once more.
"""

from functools import cache
from types import SimpleNamespace

import harness
import numpy as np
import pytest
import yaml

from asr_exp.builders.data import build_data, build_tokenizer
from asr_exp.cli.main import main
from asr_exp.config.compose import compose, validate
from asr_exp.config.groups import choices, conf_folder
from asr_exp.config.sweep_syntax import expanded
from asr_exp.core.errors import UserError
from asr_exp.data.batch_plan import BatchPlan
from asr_exp.evaluation.evaluate import Evaluation
from asr_exp.runs.folder import resolve, signature
from asr_exp.training.loop import score
from asr_exp.training.state import Hooks, State
from asr_exp.training.trackers import NoTracker

ALL = choices([conf_folder()])["experiment"]
EXPERIMENTS = [row for row in ALL if "/" in row]  # the others are recipes without a published score
LIGHT = (0.05, 10, 0.0, None)
MIDDLE = (0.3, 10, 0.1, 64)
HEAVY = (0.75, 10, 0.25, 64)

# row -> dataset, model, lr, utterances a step, epochs, warm-up, masks, train, scored split, published value
HF = {
    "hf-timit/wav2vec2-base": (
        "timit",
        "wav2vec2-base",
        1e-4,
        32,
        20,
        1000,
        LIGHT,
        ["train"],
        ["test"],
        0.2151,
    ),
    "hf-timit/unispeech-large-1500h-cv": (
        "timit",
        "unispeech-large-1500h-cv",
        1e-4,
        32,
        20,
        1000,
        LIGHT,
        ["train"],
        ["test"],
        0.2196,
    ),
    "hf-timit/sew-small-100k": (
        "timit",
        "sew-small-100k",
        1e-4,
        32,
        20,
        1000,
        LIGHT,
        ["train"],
        ["test"],
        0.2988,
    ),
    "hf-timit/distilhubert": (
        "timit",
        "distilhubert",
        1e-4,
        32,
        20,
        1000,
        LIGHT,
        ["train"],
        ["test"],
        0.6776,
    ),
    **{
        f"hf-librispeech/{model}": (
            "librispeech-100h",
            model,
            lr,
            32,
            3,
            500,
            LIGHT,
            ["train-clean-100"],
            ["dev-clean"],
            value,
        )
        for model, lr, value in [
            ("wavlm-large", 3e-4, 0.0491),
            ("wavlm-base-plus", 3e-4, 0.068),
            ("wav2vec2-large-lv60", 3e-4, 0.0417),
            ("hubert-large-ll60k", 3e-4, 0.0883),
            ("sew-mid-100k", 3e-5, 0.1665),
        ]
    },
    "hf-common-voice/xlsr-53": (
        "common-voice",
        "xlsr-53",
        3e-4,
        32,
        15,
        500,
        LIGHT,
        ["train", "dev"],
        ["test"],
        0.3581,
    ),
    "hf-common-voice/xlsr-53-one-gpu": (
        "common-voice",
        "xlsr-53",
        3e-4,
        32,
        15,
        500,
        LIGHT,
        ["train", "dev"],
        ["test"],
        0.3556,
    ),
    "hf-common-voice/xlsr-53-100-epochs": (
        "common-voice",
        "xlsr-53",
        5e-4,
        64,
        100,
        500,
        MIDDLE,
        ["train", "dev"],
        ["test"],
        0.3104,
    ),
    "hf-common-voice/xls-r-300m": (
        "common-voice",
        "xls-r-300m",
        5e-4,
        64,
        100,
        500,
        MIDDLE,
        ["train", "dev"],
        ["test"],
        0.3071,
    ),
    "hf-common-voice/xls-r-300m-streaming": (
        "common-voice",
        "xls-r-300m",
        5e-4,
        64,
        None,
        500,
        MIDDLE,
        ["train", "dev"],
        ["test"],
        0.29,
    ),
    "hf-common-voice/xls-r-1b": (
        "common-voice",
        "xls-r-1b",
        5e-5,
        64,
        100,
        500,
        LIGHT,
        ["train", "dev"],
        ["test"],
        0.2149,
    ),
    "hf-common-voice-phones/tr": (
        "common-voice-phones",
        "xls-r-300m",
        7.5e-5,
        32,
        150,
        500,
        LIGHT,
        ["train"],
        ["test"],
        0.0994,
    ),
    "hf-common-voice-phones/it": (
        "common-voice-phones",
        "xls-r-300m",
        7.5e-5,
        32,
        150,
        500,
        LIGHT,
        ["train"],
        ["test"],
        0.0770,
    ),
    "hf-common-voice-phones/sv-SE": (
        "common-voice-phones",
        "xls-r-300m",
        7.5e-5,
        32,
        150,
        500,
        LIGHT,
        ["train"],
        ["test"],
        0.0997,
    ),
    "hf-mls/xlsr-53": ("mls", "xlsr-53", 1e-4, 32, 200, 1000, HEAVY, ["10hr"], ["test"], 0.1288),
    "hf-mls/xls-r-300m": ("mls", "xls-r-300m", 1e-4, 32, 200, 1000, LIGHT, ["10hr"], ["test"], 0.1520),
    "hf-minds14/wav2vec2-base": (
        "minds14",
        "wav2vec2-base",
        1e-5,
        16,
        None,
        500,
        LIGHT,
        ["train"],
        None,
        None,
    ),
}
STEPS = {"hf-minds14/wav2vec2-base": 2000, "hf-common-voice/xls-r-300m-streaming": 5000}
LANGUAGES = {
    "hf-common-voice": "tr",
    "hf-mls": "german",
    "hf-minds14": "en-US",
    "hf-timit": "en",
    "hf-librispeech": "en",
}
CERS = {"xlsr-53": 0.0805, "xlsr-53-100-epochs": 0.0737, "xls-r-300m": 0.0736, "xls-r-1b": 0.0503}

# row -> the machine and the time of the published run
RAN = {
    "hf-timit/wav2vec2-base": ("1 TITAN RTX", "32 min"),
    "hf-timit/unispeech-large-1500h-cv": ("1 TITAN RTX", "35 min"),
    "hf-timit/sew-small-100k": ("1 TITAN RTX", "28 min"),
    "hf-timit/distilhubert": ("1 TITAN RTX", "26 min"),
    **{
        f"hf-librispeech/{model}": ("8 V100", "1 h 30")
        for model in ("wavlm-large", "wavlm-base-plus", "wav2vec2-large-lv60", "hubert-large-ll60k")
    },
    "hf-librispeech/sew-mid-100k": ("8 V100", "54 min"),
    "hf-common-voice/xlsr-53": ("8 V100", "18 min"),
    "hf-common-voice/xlsr-53-one-gpu": ("1 V100", "1 h 20"),
    "hf-common-voice/xlsr-53-100-epochs": ("8 V100", "1 h 05"),
    "hf-common-voice/xls-r-300m": ("8 V100", "1 h 05"),
    "hf-common-voice/xls-r-300m-streaming": ("4 V100", "3 h 31"),
    "hf-common-voice/xls-r-1b": ("2 Titan 24 GB", "15 h 10"),
    **{f"hf-common-voice-phones/{language}": ("8 V100", "23 min") for language in ("tr", "it", "sv-SE")},
    "hf-mls/xlsr-53": ("1 Titan 24 GB", "15 h 04"),
    "hf-mls/xls-r-300m": ("1 Titan 24 GB", "15 h 04"),
    "hf-minds14/wav2vec2-base": (None, None),
}
# table -> the split of the published score, and what is known of its protocol
MEASURED = {
    "hf-timit": ("test", {"text": "hf_compat"}),
    "hf-librispeech": ("dev-clean", {"text": "hf_compat"}),
    "hf-common-voice": ("test", {"text": "hf_compat"}),
    "hf-mls": ("test", {"text": "hf_compat"}),
    "hf-common-voice-phones": ("CPC test", {"inventory": "cpc"}),
    "hf-minds14": ("20 % of train", {}),
    "fairseq-librispeech-100h": ("test-clean", {}),
    "fairseq-librispeech-10h": ("test-clean", {}),
    "xls-r-common-voice": ("test", {}),
    "xls-r-mls": ("test", {}),
    "timit-phones": ("core-test", {"inventory": "timit39"}),
}

# row -> lr, steps, masks, freeze the encoder for, share of the steps up and at the peak
OURS = {
    "fairseq-librispeech-100h/wav2vec2-base": (3e-5, 80_000, (0.65, 10, 0.5, 64), 0, (0.1, 0.4)),
    "fairseq-librispeech-100h/wav2vec2-large-lv60": (3e-5, 80_000, (0.5, 10, 0.5, 64), 10_000, (0.1, 0.4)),
    "fairseq-librispeech-10h/wav2vec2-large-lv60": (1e-4, 20_000, HEAVY, 10_000, (0.1, 0.4)),
    "fairseq-librispeech-10h/hubert-base": (2e-5, 25_000, (0.75, 10, 0.5, 64), 10_000, (0.08, 0.32)),
    **{
        f"xls-r-common-voice/{language}": (3e-4, 13_000, HEAVY, 10_000, (0.1, 0.4))
        for language in ("tr", "it", "sv-SE")
    },
    "xls-r-mls/german": (3e-4, 20_000, HEAVY, 10_000, (0.1, 0.4)),
}


@cache
def composed(row):
    return compose([f"experiment={row}"])


def masks(config):
    a = config.augment
    return a.mask_time_prob, a.mask_time_length, a.mask_feature_prob, a.mask_feature_length


@pytest.mark.parametrize("row", EXPERIMENTS)
def test_a_row_is_short_valid_and_keeps_its_own_run(row):
    config = composed(row)
    validate(config)
    assert len((conf_folder() / "experiment" / f"{row}.yaml").read_text().splitlines()) <= 20
    bare = compose([f"dataset={config.dataset.name.replace('-10h', '-100h')}", f"model={config.model.name}"])
    assert signature(config) != signature(bare)
    assert config.published.metric in ("wer", "per")
    assert (config.published.split, config.published.protocol) == MEASURED[row.partition("/")[0]]


def test_the_tables_are_these():
    assert {row for row in EXPERIMENTS if row.startswith("hf-")} == set(HF)
    assert {row for row in EXPERIMENTS if not row.startswith("hf-")} == {
        *OURS,
        "timit-phones/wav2vec2-base",
        "timit-phones/wav2vec2-large-lv60",
    }


@pytest.mark.parametrize("row", HF)
def test_a_published_row_resolves_to_its_recipe(row):
    dataset, model, lr, utterances, epochs, warmup, masked, train, scored, value = HF[row]
    c = composed(row)
    assert (c.dataset.name, c.model.name, c.seed) == (dataset, model, 42)
    assert (c.optimizer.lr, list(c.optimizer.betas), c.optimizer.eps, c.optimizer.weight_decay) == (
        lr,
        [0.9, 0.999],
        1e-8,
        0,
    )
    assert (c.optimizer.name, c.optimizer.clip_norm) == ("adamw", 1.0)
    assert (c.trainer.batch_utterances, c.trainer.batch_seconds) == (utterances, None)
    assert (c.trainer.max_epochs, c.trainer.max_steps) == ((epochs, None) if epochs else (None, STEPS[row]))
    assert (c.schedule.name, c.schedule.warmup_steps, c.schedule.final_scale) == ("linear", warmup, 0)
    assert masks(c) == masked and (c.augment.dropout, c.augment.layerdrop, list(c.augment.speed)) == (
        0,
        0,
        [],
    )
    assert (c.trainer.precision, c.trainer.loss_reduction, c.model.freeze_front_end) == ("fp16", "mean", True)
    assert (list(c.dataset.train), c.dataset.test and list(c.dataset.test)) == (train, scored)
    table, _, name = row.partition("/")
    assert c.dataset.language == (name if table == "hf-common-voice-phones" else LANGUAGES[table])
    assert (c.published.value, c.published.hardware, c.published.time) == (value, *RAN[row])
    assert c.published.cer == (CERS.get(name) if table == "hf-common-voice" else None)


@pytest.mark.parametrize("row", HF)
def test_a_published_row_is_scored_as_the_old_script_did(row):
    c = composed(row)
    assert (c.protocol.name, c.model.padding, c.trainer.select) == ("hf_compat", "hf_compat", "last")
    assert list(c.tokenizer.splits) == ["train", "test"]
    expected = {"hf-common-voice-phones": "espeak", "hf-minds14": "upper"}.get(
        row.partition("/")[0], "hf_compat"
    )
    assert c.text.name == expected
    assert c.published.source.startswith(
        "https://github.com/huggingface/transformers/" if "streaming" in row else "https://huggingface.co/"
    )


def test_what_is_inferred_is_marked():
    marked = {row for row in HF if composed(row).published.inferred}
    assert marked == {row for row in HF if row.partition("/")[0] not in ("hf-timit", "hf-librispeech")} | {
        "hf-librispeech/wavlm-base-plus"
    }
    assert "trainer.max_epochs" in composed("hf-librispeech/wavlm-base-plus").published.inferred


def test_timit_is_whole_and_takes_2900_steps():
    c = composed("hf-timit/wav2vec2-base")
    assert c.dataset.sa_sentences and c.dataset.max_utterances is None
    plan = BatchPlan(
        np.full(4620, 3.0), c.trainer.batch_seconds, 100.0, 42, batch_utterances=c.trainer.batch_utterances
    )
    assert plan.steps_per_epoch * c.trainer.max_epochs == 2900


def test_minds14_scores_a_fifth_and_saves_memory():
    c = composed("hf-minds14/wav2vec2-base")
    assert (c.dataset.test_fraction, c.dataset.test, c.trainer.gradient_checkpointing) == (0.2, None, True)


@pytest.mark.parametrize("row", OURS)
def test_a_better_recipe_resolves_to_its_numbers(row):
    lr, steps, masked, frozen, stages = OURS[row]
    c = composed(row)
    assert (c.optimizer.lr, c.trainer.max_steps, c.trainer.max_epochs) == (lr, steps, None)
    assert c.trainer.batch_seconds == 3.2e6 * 8 / 16000 == 1.28e6 * 20 / 16000
    assert masks(c) == masked and c.model.freeze_encoder_steps == frozen
    assert (c.schedule.name, c.schedule.final_scale, (c.schedule.warmup_ratio, c.schedule.hold_ratio)) == (
        "tri-stage",
        0.05,
        stages,
    )
    assert (c.augment.layerdrop, c.model.config["activation_dropout"], c.augment.dropout) == (0.1, 0.1, None)
    assert (c.protocol.name, c.model.padding, c.trainer.select, list(c.tokenizer.splits)) == (
        "standard",
        "exact",
        "best",
        ["train"],
    )
    assert c.published.value == (0.061 if row == "fairseq-librispeech-100h/wav2vec2-base" else None)


def test_timit_phones_is_the_usual_task():
    c = composed("timit-phones/wav2vec2-large-lv60")
    assert (c.dataset.sa_sentences, list(c.dataset.dev), list(c.dataset.test)) == (
        False,
        ["dev"],
        ["core-test"],
    )
    assert (c.tokenizer.inventory, c.tokenizer.score_inventory) == ("timit48", "timit39")
    assert (c.published.value, c.published.metric) == (0.083, "per")


# ------------------------------------------------------------------------------------------------------------
# tables on the command line


def test_a_table_is_its_rows():
    rows = expanded(["experiment=hf-mls,hf-timit/distilhubert", "seed=0,1"], [conf_folder()])
    assert rows == ["experiment=hf-mls/xls-r-300m,hf-mls/xlsr-53,hf-timit/distilhubert", "seed=0,1"]


def test_a_table_without_m_says_so():
    with pytest.raises(UserError, match="experiment=hf-timit is a table of 4.*-m.*hf-timit/wav2vec2-base"):
        compose(["experiment=hf-timit"])


def test_users_own_table_and_a_typo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf/experiment/mine"
    folder.mkdir(parents=True)
    for name, lr in (("low", 1e-5), ("high", "fast")):
        (folder / f"{name}.yaml").write_text(f"# @package _global_\noptimizer: {{lr: {lr}}}\n")
    assert expanded(["experiment=mine"], [conf_folder(), tmp_path / "conf"]) == [
        "experiment=mine/high,mine/low"
    ]
    assert main(["-m", "experiment=hf-timitt"]) == 2
    assert "'hf-timit" in capsys.readouterr().err


def test_help_names_the_tables_and_their_rows(capsys):
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "hf-timit (4 rows)" in said and "hf-minds14 (1 row)" in said and "_base" not in said


# ------------------------------------------------------------------------------------------------------------
# the keys they need


def test_what_is_published_is_no_part_of_the_run():
    row = "experiment=hf-mls/xlsr-53"
    one, other = compose([row]), compose([row, "published.value=0.5", "published.time=1 min"])
    assert signature(one) == signature(other)
    assert "published" in resolve(one)  # but config.yaml tells it


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.batch_utterances=8"], ["trainer.batch_seconds=8", "null"]),
        (["trainer.batch_seconds=null"], ["both null"]),
        (
            ["trainer.batch_seconds=null", "trainer.batch_utterances=2", "trainer.devices=4"],
            ["trainer.devices=4"],
        ),
        (["trainer.batch_utterances=0"], ["at least 1"]),
        (["trainer.select=last", "trainer.patience=3"], ["trainer.patience=3", "trainer.select"]),
        (["trainer.select=first"], ["best, last"]),
        (["tokenizer.splits=[train,eval]"], ["train, dev, test"]),
        (["published.metric=bleu"], ["wer, cer, per"]),
    ],
)
def test_settings_that_make_no_sense(overrides, words):
    with pytest.raises(UserError) as told:
        validate(compose(overrides))
    assert all(word in str(told.value) for word in words), told.value


@pytest.mark.parametrize("count", [1, 7, 32, 500])
def test_steps_of_so_many_utterances(count):
    seconds = np.random.default_rng(0).uniform(1, 15, size=100)
    plan = BatchPlan(seconds, None, 30.0, seed=1, batch_utterances=count)
    assert plan.steps_per_epoch == -(-100 // count)
    epoch = [plan.step(step) for step in range(1, plan.steps_per_epoch + 1)]
    assert sorted(np.concatenate(epoch)) == list(range(100))
    assert (
        sorted(map(len, epoch), reverse=True)[:-1] == [count] * (len(epoch) - 1)
        and max(map(len, epoch)) <= count
    )


def test_the_protocol_group_is_two_files_that_differ():
    files = {
        path.stem: yaml.safe_load(path.read_text()) for path in (conf_folder() / "protocol").glob("*.yaml")
    }
    assert {name: file["protocol"]["name"] for name, file in files.items()} == {
        "standard": "standard",
        "hf_compat": "hf_compat",
    }
    assert set(files["standard"]) == {"protocol"}  # it changes nothing that a dataset chose
    phones = compose(["protocol=hf_compat", "dataset=timit-phones", "model=wav2vec2-base"])
    assert (phones.text.name, phones.tokenizer.unit) == ("phones", "phone")


@pytest.mark.parametrize(("select", "kept", "stale"), [("best", [1, 2], 1), ("last", [1, 2, 3], 0)])
def test_the_last_weights_are_kept_where_they_are_asked_for(select, kept, stale):
    job = SimpleNamespace(ema=None, select=select, metric="wer")
    state = State()
    saved = []
    for state.step, rate in enumerate((0.5, 0.2, 0.4), start=1):
        scored = Evaluation({"wer": rate, "cer": rate, "per": None}, 1.0, [])
        score(
            job,
            state,
            Hooks(
                lambda step, scored=scored: scored,
                lambda state, best: saved.append(state.step),
                None,
                NoTracker(),
                None,
            ),
        )
    assert saved == kept and state.stale == stale
    assert (state.best["step"], state.best["value"]) == ((2, 0.2) if select == "best" else (3, 0.4))


@pytest.mark.slow
def test_a_run_in_utterances_with_its_last_weights(tmp_path, corpus, cache):
    short = [
        *corpus,
        *harness.SMALL,
        *harness.QUIET,
        "trainer.max_steps=5",
        "trainer.eval_every=2",
        "trainer.select=last",
    ]
    folder = harness.run(*short, "trainer.batch_seconds=null", "trainer.batch_utterances=8", cwd=tmp_path)
    result = harness.result(folder)
    assert (result["protocol"]["select"], result["protocol"]["name"]) == ("last", "standard") and not result[
        "rehearsal"
    ]
    # 20 utterances are three steps
    assert result["best"]["step"] == 5 and result["train"]["epochs"] == round(5 / 3, 3)


def test_the_vocabulary_may_see_other_splits(tmp_path, cache):
    overrides = harness.make_corpus(tmp_path / "corpus", 4, 2)
    test = tmp_path / "corpus/test.csv"
    test.write_text(test.read_text().replace("test0.wav,", "test0.wav,z "))
    for splits, seen in (("train", False), ("train,test", True)):
        config = compose([*overrides, f"tokenizer.splits=[{splits}]"])
        assert ("z" in build_tokenizer(config, build_data(config)).ids) == seen
