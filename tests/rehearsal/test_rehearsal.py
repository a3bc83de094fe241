"""Rehearsals: every row of every table goes its whole way, with the architecture, text rules and settings of
the real run.
"""

import json
import time

import harness
import pytest
import transformers
from tables import grids

from asr_exp.builders.session import cache_folder
from asr_exp.config.compose import compose
from asr_exp.config.groups import choices, conf_folder, tables
from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import read_corpus
from asr_exp.rehearsal.rehearse import rehearsal_config
from asr_exp.runs.folder import resolve, run_folder, signature

EXPERIMENTS = [row for row in choices([conf_folder()])["experiment"] if "/" in row]  # of tables
# The checkpoints' own config.json and preprocessor_config.json: family, norm of the front end, pre-norm,
# normalised audio, mask.
PUBLISHED = {
    "wav2vec2-base": ("wav2vec2", "group", False, True, False),
    "wav2vec2-large-lv60": ("wav2vec2", "layer", True, True, True),
    "xlsr-53": ("wav2vec2", "layer", True, True, True),
    "xls-r-300m": ("wav2vec2", "layer", True, True, True),
    "xls-r-1b": ("wav2vec2", "layer", True, True, True),
    "hubert-base": ("hubert", "group", False, True, False),
    "hubert-large-ll60k": ("hubert", "layer", True, True, True),
    "distilhubert": ("hubert", "group", False, False, False),
    "wavlm-base-plus": ("wavlm", "group", False, False, True),
    "wavlm-large": ("wavlm", "layer", True, True, True),
    "sew-small-100k": ("sew", "group", None, True, False),
    "sew-mid-100k": ("sew", "group", None, True, False),
    "unispeech-large-1500h-cv": ("unispeech", "layer", True, True, True),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flat(value, name=""):
    if not isinstance(value, dict):
        return {name: value}
    return {
        key: leaf
        for part, inside in value.items()
        for key, leaf in flat(inside, f"{name}.{part}".lstrip(".")).items()
    }


@pytest.mark.parametrize(
    "row",
    ["hf-timit/distilhubert", "fairseq-librispeech-100h/wav2vec2-large-lv60", "hf-common-voice-phones/it"],
)
def test_a_rehearsal_is_the_run_but_for_its_size(here, row):
    real, tried = (
        compose([f"experiment={row}"]),
        rehearsal_config(compose([f"experiment={row}", "debug=rehearsal"])),
    )
    before, after = flat(resolve(real)), flat(resolve(tried))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    changed = {name for name in changed if not name.startswith(("model.facts", "tracking."))}
    assert changed <= {
        "rehearsal",
        "output_root",
        "dataset.root",
        "dataset.max_utterances",
        "model.checkpoint",
        "model.freeze_encoder_steps",
        "trainer.max_steps",
        "trainer.eval_every",
        "trainer.precision",
        "trainer.examples",
    }
    assert signature(tried) != signature(real) and run_folder(tried).is_relative_to("outputs/rehearsal")


def test_a_rehearsal_is_found_without_being_written(here, cache):
    asked = ["experiment=hf-timit/distilhubert", "debug=rehearsal"]
    named = rehearsal_config(compose(asked), write=False)
    assert not list(cache.rglob("rehearsal/*")) and resolve(named) == resolve(
        rehearsal_config(compose(asked))
    )
    assert (cache / "rehearsal").is_dir()


def test_every_model_of_the_tables_is_listed_here():
    assert {compose([f"experiment={row}"]).model.name for row in EXPERIMENTS} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tiny_checkpoint_is_of_the_published_architecture(here, name):
    folder = rehearsal_config(compose([f"model={name}", "dataset=timit", "debug=rehearsal"])).model.checkpoint
    config, extractor = (
        transformers.AutoConfig.from_pretrained(folder),
        transformers.AutoFeatureExtractor.from_pretrained(folder),
    )
    family, norm, stable, normalised, mask = PUBLISHED[name]
    assert (config.model_type, config.feat_extract_norm, getattr(config, "do_stable_layer_norm", None)) == (
        family,
        norm,
        stable,
    )
    assert (extractor.do_normalize, extractor.return_attention_mask, extractor.sampling_rate) == (
        normalised,
        mask,
        16000,
    )
    full = type(config)()
    assert (config.conv_kernel, config.conv_stride) == (list(full.conv_kernel), list(full.conv_stride))
    assert config.num_conv_pos_embeddings == (31 if family == "sew" else 128)
    assert getattr(config, "feat_proj_layer_norm", True) == (name != "distilhubert")
    assert config.hidden_size != config.conv_dim[-1] and config.hidden_size < 100


def test_a_checkpoint_of_ones_own_says_itself_what_it_is(here, backbone):
    own = f"model.checkpoint={backbone('sew-group')}"
    folder = rehearsal_config(compose(["model=hf", own, "dataset=timit", "debug=rehearsal"])).model.checkpoint
    config = transformers.AutoConfig.from_pretrained(folder)
    assert str(folder) not in own
    assert (config.model_type, config.squeeze_factor, len(config.conv_dim), config.mask_time_length) == (
        "sew",
        2,
        13,
        2,
    )


def test_an_architecture_that_cannot_be_known(here):
    with pytest.raises(UserError, match="nobody/nothing.*model.facts"):
        rehearsal_config(
            compose(["model=hf", "model.checkpoint=nobody/nothing", "dataset=timit", "debug=rehearsal"])
        )


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        (["dataset=timit", "dataset.sa_sentences=true"], (12, 3, 12)),
        (["dataset=timit"], (8, 2, 8)),
        (["dataset=timit-phones"], (8, 2, 4)),
        (["dataset=librispeech-100h"], (6, 6, 6)),
        (["dataset=librispeech-960h"], (18, 12, 6)),
        (["dataset=common-voice", "dataset.language=tr"], (6, 6, 6)),
        (["dataset=minds14"], (20, 2, 2)),
        (["dataset=mls", "dataset.language=german", "dataset.train=[10hr]"], (12, 12, 12)),
    ],
)
def test_a_stand_in_reads_as_its_corpus(here, dataset, counts):
    config = rehearsal_config(compose([*dataset, "model=tiny-random", "debug=rehearsal"]))
    corpus = read_corpus(config.dataset, cache_folder(config))
    assert tuple(len(corpus.splits[split]) for split in ("train", "dev", "test")) == counts
    assert not any(corpus.rejected.values()) and all(u.text for rows in corpus.splits.values() for u in rows)


def test_a_root_that_is_there_is_used(here, shared_data, capsys):
    root = shared_data("TIMIT")
    assert rehearsal_config(
        compose(["dataset=timit", f"dataset.root={root}", "debug=rehearsal"])
    ).dataset.root == str(root)
    assert (
        rehearsal_config(compose(["dataset=timit", "dataset.root=/no/where", "debug=rehearsal"])).dataset.root
        != "/no/where"
    )
    assert "dataset.root=/no/where is not here" in capsys.readouterr().out


@pytest.mark.slow
def test_planted_faults_fail_their_rows_and_no_other(here):
    rows = {
        "sound": "dataset: {train: [train]}",
        "subset": "dataset: {train: [trian]}",
        "key": "trainer: {stepps: 3}",
        "lr": "optimizer: {lr: fast}",
    }
    folder = here / "conf/experiment/mine"
    folder.mkdir(parents=True)
    for name, fault in rows.items():
        (folder / f"{name}.yaml").write_text(
            "# @package _global_\ndefaults:\n  - /experiment/hf-timit/_base\n  - override /model:"
            " distilhubert\n\n" + fault + "\n"
        )
    done = harness.cli("-m", "experiment=mine", "debug=rehearsal", cwd=here, status=1)
    ends = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith(("ok ", "failed "))]
    assert ends == [
        ["ok" if name == "sound" else "failed", f"experiment=mine/{name}"]
        for name in ("sound", "subset", "key", "lr")
    ]
    for words in ("'train'", "stepps", "optimizer.lr"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    drawn = grids(harness.cli("table", "experiment=mine", "debug=rehearsal", cwd=here).stdout)
    shown = {line[0]: line[1] for lines in drawn if lines[0][0] == "experiment" for line in lines[1:]}
    assert shown == {"sound": "rehearsal", "subset": "failed", "key": "failed", "lr": "failed"}


@pytest.mark.slow
def test_every_row_of_every_table(here):
    began = time.monotonic()
    every = ",".join(tables(EXPERIMENTS))
    done = harness.cli("-m", f"experiment={every}", "debug=rehearsal", cwd=here, timeout=900)
    assert time.monotonic() - began < 600
    assert done.stdout.count("once more from the last checkpoint: the same scores") == len(EXPERIMENTS)
    results = [json.loads(path.read_text()) for path in here.rglob("result.json")]
    assert len(results) == len(EXPERIMENTS) - 1  # two published rows of XLSR-53 are one run
    for result in results:
        assert result["rehearsal"] and result["status"] == "finished" and result["train"]["steps"] == 3
        assert {split["coverage"] for split in result["splits"].values()} == {1.0}
    assert {path.name for path in (here / "outputs").iterdir()} == {"rehearsal"}
    assert {result["protocol"]["name"] for result in results} == {"standard", "hf_compat"}
    again = harness.cli("experiment=hf-timit/distilhubert", "debug=rehearsal", cwd=here)
    assert "step 3/3" in again.stdout  # a rehearsal begins anew each time
