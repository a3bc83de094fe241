"""Rehearse a run with tiny weights and a few utterances, in seconds, before it waits for days in a queue.

The settings, the architecture, the text rules and the code are those of the run. Its checkpoint is replaced
by a tiny one of the same architecture, which transformers saves and which is loaded like the large one; a
corpus that is not on this machine is replaced by a synthetic one in the same layout. The rehearsal trains to
the end, then once more from the last checkpoint, and both have to score the same.
"""

import contextlib
import copy
import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.session import cache_folder
from asr_exp.core.errors import UserError
from asr_exp.core.files import write_folder
from asr_exp.core.locks import FileLock
from asr_exp.model.model_config import ModelSettings, read_config
from asr_exp.rehearsal import corpora as synthetic_corpora
from asr_exp.runs.folder import run_folder
from asr_exp.runs.results import read_result
from asr_exp.runtime.distributed import under_torchrun

log = logging.getLogger(__name__)

# Settings that make a network large and change nothing else. The encoder is wider than the front end, since
# SEW projects the one to the other only where their widths differ.
SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "codevector_dim": 32,
    "proj_codevector_dim": 32,
    "num_codevectors_per_group": 8,
}
WIDTH = 32  # channels of each layer of the front end
EXTRACTOR = ("do_normalize", "return_attention_mask")  # settings of the feature extractor


def rehearsal_config(config: DictConfig, write: bool = True) -> DictConfig:
    """The config of a run's rehearsal: results in a folder of their own, checkpoint and corpus in the cache.

    write: make that checkpoint and corpus, where they are not there yet; without it they are named alone.
    Raises UserError where the architecture of the checkpoint is not known.
    """
    config = copy.deepcopy(config)
    cache = cache_folder(config) / "rehearsal"
    config.output_root = str(Path(config.output_root) / "rehearsal")
    dataset, model = config.dataset, config.model
    if dataset.reader in synthetic_corpora.LAYOUTS and not (
        dataset.root and Path(dataset.root).expanduser().is_dir()
    ):
        if dataset.root and write:
            print(
                f"dataset.root={dataset.root} is not here; the rehearsal reads a made-up corpus in the layout"
                f" of {dataset.name}."
            )
        name = f"{dataset.reader}-{dataset.language}-{synthetic_corpora.VERSION}"
        dataset.root = str(cache / name)
        if write:
            _make_once(
                cache / name, lambda folder: synthetic_corpora.write(dataset.reader, dataset.language, folder)
            )
        dataset.source = "auto"
    if model.checkpoint and model.head == "new":
        facts = _facts(model)
        digest = hashlib.sha256(
            json.dumps([facts, SIZES, WIDTH], sort_keys=True, default=str).encode()
        ).hexdigest()[:8]
        model.checkpoint = str(cache / f"{facts['model_type']}-{digest}")
        if write:
            _make_once(Path(model.checkpoint), lambda folder: _save_tiny(facts, folder))
        model.revision, model.facts = None, {}
        model.config = {
            name: value for name, value in model.config.items() if name not in (*SIZES, "conv_dim")
        }
        model.freeze_encoder_steps = min(model.freeze_encoder_steps, 1)
    return config


def rehearse(config: DictConfig, run: Callable[[DictConfig], int]) -> int:
    """Train as `run` does, from the start, then once more from the last checkpoint -> exit status.

    Raises UserError where the two do not score the same.
    """
    if under_torchrun():  # one of several ranks: the process that started them deletes the folder and repeats
        return run(config)
    folder = run_folder(config)
    shutil.rmtree(folder, ignore_errors=True)
    status = run(config)
    first = read_result(folder)
    if status or not first:
        return status or 1
    (folder / "result.json").unlink()
    with contextlib.redirect_stdout(io.StringIO()):
        status = run(config)
    again = read_result(folder) or {}
    if again.get("splits") != first["splits"]:
        raise UserError(
            f"The rehearsal in {folder} does not score the same once it goes on from its last checkpoint; see"
            " its train.log."
        )
    print("  rehearsed    once more from the last checkpoint: the same scores")
    return status


def _make_once(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Fill a folder of the cache, unless it is there; a second process waits until the first is done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            write_folder(folder, fill)


def _facts(model: DictConfig) -> dict[str, Any]:
    """The settings of a checkpoint's architecture: model.facts, or else the checkpoint's own config.json.

    Those of a local folder come from its config.json always. Raises UserError where neither is there.
    """
    if model.facts and not Path(model.checkpoint).expanduser().is_dir():
        return OmegaConf.to_container(model.facts)  # type: ignore[return-value]
    try:
        settings = read_config(ModelSettings(model.checkpoint, model.revision)).to_dict()
    except UserError as error:
        raise UserError(
            f"{error} A rehearsal needs no more than its architecture: give model.facts, as"
            " conf/model/*.yaml do."
        ) from None
    of_the_file = (
        "architectures",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "vocab_size",
    )
    return {name: value for name, value in settings.items() if name not in of_the_file}


def _save_tiny(facts: dict[str, Any], folder: Path) -> None:
    """Save a tiny checkpoint of the architecture, as before fine-tuning, and its feature extractor."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING_NAMES as PRETRAINED

    transformers.logging.disable_progress_bar()
    settings = {
        name: value
        for name, value in facts.items()
        if name not in ("model_type", *EXTRACTOR, *SIZES, "conv_dim")
    }
    config = transformers.AutoConfig.for_model(facts["model_type"])
    for name, value in {**settings, **SIZES}.items():
        if name in settings or hasattr(config, name):
            setattr(config, name, value)
    config.conv_dim = [WIDTH] * len(config.conv_kernel)
    kind = (
        transformers.AutoModelForPreTraining if facts["model_type"] in PRETRAINED else transformers.AutoModel
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(
        **{name: facts[name] for name in EXTRACTOR if name in facts}
    ).save_pretrained(folder)
