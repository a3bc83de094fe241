"""What is printed before step 1: every number that was derived from the config and the data, and a warning of
what the vocabulary lacks.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import Data
from asr_exp.config.groups import conf_folder
from asr_exp.config.rules_name import text_name
from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.data.prepare import Split
from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.vocabulary import TOLERATED, Coverage, coverage, mending_rules
from asr_exp.runtime.precision import described
from asr_exp.scoring.error_rates import READ_CER, unspaced
from asr_exp.training.pass_size import expected_memory
from asr_exp.training.setup import TrainingSetup

log = logging.getLogger(__name__)
CHOSEN_BY_WER = (
    "The best checkpoint is chosen by the WER all the same; trainer.metric=dev.cer chooses it by the CER."
)
SAMPLE = 1000  # transcripts of a split that text rules are tried on
SHOWN = 8  # units that are named


def announce(
    config: DictConfig,
    folder: Path,
    data: Data,
    splits: Mapping[str, Split],
    tokenizer: Tokenizer,
    setup: TrainingSetup,
) -> None:
    """Log what a run is about to do.

    Args:
        config: of the run.
        folder: of the run.
        data: the corpus, for the names of the subsets that make each split.
        splits: prepared, by name.
        tokenizer: for the vocabulary.
        setup: for the model, the batches, the steps and the device.
    """
    runtime = setup.runtime
    plan = setup.plan
    network = setup.model.network
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in setup.trained)
    epochs = setup.total / plan.steps_per_epoch
    rows = [("run", str(folder)), *(_size(data, split) for split in splits.values()), _vocabulary(tokenizer)]
    rows += [
        (
            "model",
            (
                f"{network.config.model_type}, {parameters / 1e6:.2f} M parameters: {trained / 1e6:.2f} M"
                f" trained, {(parameters - trained) / 1e6:.2f} M frozen"
            ),
        ),
        ("batch", _batch(config, setup)),
        (
            "steps",
            (
                f"{setup.total:,} = {epochs:.1f} epochs of {plan.steps_per_epoch:,};"
                f" dev every {setup.eval_every:,}"
            ),
        ),
        (
            "device",
            f"{runtime.world} x {runtime.device.type}, {described(runtime.precision, runtime.tf32)}"
            + ", fsdp" * setup.sharded,
        ),
        ("memory", f"about {console.size(expected_memory(setup))} a device, by formula"),
    ]
    console.page(f"{config.dataset.name} x {config.model.name}", rows)
    log.info("")
    if unspaced(splits["test"].references(first=1000)):
        log.warning(READ_CER)
        if setup.metric == "wer":
            log.warning(CHOSEN_BY_WER)
        else:
            log.info("The best checkpoint is chosen by dev %s (trainer.metric).", setup.metric.upper())


def announce_scoring(
    config: DictConfig, folder: Path, data: Data, split: Split, tokenizer: Tokenizer
) -> None:
    """Log which checkpoint is about to be scored as it is, and on which split.

    Args:
        config: of the run.
        folder: of the run.
        data: the corpus, for the names of the subsets that make the split.
        split: prepared.
        tokenizer: for the vocabulary.
    """
    console.page(
        f"{config.dataset.name} x {config.model.checkpoint}",
        [
            ("run", str(folder)),
            _size(data, split),
            _vocabulary(tokenizer),
            ("steps", "none: the checkpoint is scored as it is"),
        ],
    )


def _size(data: Data, split: Split) -> tuple[str, str]:
    left_out = f"; {len(split.rejected)} left out, see quarantine.jsonl" if split.rejected else ""
    subsets = "+".join(data.corpus.subsets.get(split.name, [split.name]))
    return (
        split.name,
        (
            f"{console.counted(len(split), 'utterance')}, {console.duration(split.seconds.sum())}"
            f" ({subsets}){left_out}"
        ),
    )


def _vocabulary(tokenizer: Tokenizer) -> tuple[str, str]:
    unit = "phones" if tokenizer.unit == "phone" else "characters"
    shown = " ".join(t.strip() for t in tokenizer.tokens[:16]) + (" ..." if len(tokenizer) > 16 else "")
    return "vocabulary", f"{len(tokenizer)} tokens ({unit}): {shown}"


def _batch(config: DictConfig, setup: TrainingSetup) -> str:
    """'200 s of audio a step; step 1: 15 utterances, 2 forward passes a rank'."""
    plan, runtime = setup.plan, setup.runtime
    passes = len(plan.micro_batches(1, 0, runtime.world))
    chosen = ""
    if setup.automatic_size and runtime.device.type == "cuda":
        chosen = f" of at most {plan.device_seconds(1):,.0f} s (trainer.device_seconds=auto)"
    return (
        f"{_step_size(config)} a step; step 1: {console.counted(len(plan.step(1)), 'utterance')}, "
        f"{passes} forward pass{'es' * (passes > 1)} a rank{chosen}"
    )


def _step_size(config: DictConfig) -> str:
    seconds, utterances = config.trainer.batch_seconds, config.trainer.batch_utterances
    return console.counted(utterances, "utterance") if seconds is None else f"{seconds:g} s of audio"


# ------------------------------------------------------------------------------------------------------------
# the vocabulary


def check_vocabulary(
    config: DictConfig,
    data: Data,
    tokenizer: Tokenizer,
    scored: Sequence[str],
    main: bool,
    train: bool = False,
) -> None:
    """Warn of units in the transcripts that the vocabulary lacks, before audio is decoded.

    Args:
        config: of the run.
        data: its transcripts, after the text rules.
        tokenizer: with the vocabulary.
        scored: the names of the splits that are scored.
        main: whether this is rank 0, which logs the warning.
        train: look at the training split too; there, a few such utterances are tolerated.

    Raises:
        UserError: where the vocabulary was not built from the transcripts, and covers hardly anything of most
            transcripts of a split.
    """
    t = config.tokenizer
    ready = config.model.head == "keep" or t.vocabulary  # it was not built from the transcripts
    complete = not ready and t.inventory is None and t.min_count == 1 and "train" in t.splits
    rows = {
        name: data.corpus.splits[name][: config.dataset.max_utterances]
        for name in ["train"] * (train and not complete) + list(scored)
    }
    covered = {name: coverage(some.texts(), tokenizer) for name, some in rows.items()}
    harm = {name: _harm(name, one, train and name == "train", tokenizer) for name, one in covered.items()}
    concerned = {name: one for name, one in covered.items() if harm[name]}
    if not concerned:
        return
    worst = max(concerned, key=lambda name: concerned[name].share)
    counts = sum((one.outside for one in concerned.values()), start=Counter[str]())
    more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    units = "phones" if tokenizer.unit == "phone" else "characters"
    lacking = ", ".join(f"{unit!r} {n:,}" for unit, n in counts.most_common(SHOWN)) + more
    message = (
        f"The vocabulary lacks {units} of the transcripts (text={text_name(config)}; {lacking}):"
        f" {'; '.join(filter(None, harm.values()))}."
        f" {advice(config, rows[worst].texts(), tokenizer, concerned[worst])}"
    )
    if ready and any(2 * one.hollow > one.spoken for one in concerned.values()):
        raise UserError(message)
    if main:
        log.warning(message)


def _harm(name: str, covered: Coverage, trained_on: bool, tokenizer: Tokenizer) -> str:
    """What happens to the utterances of a split with units outside the vocabulary; '' where nothing does."""
    of = f"of {console.counted(covered.spoken, 'utterance')} of {name}"
    if not trained_on:
        return f"{covered.touched:,} {of} cannot be recognised in full" if covered.touched else ""
    dropped = 0 if tokenizer.unknown is not None else covered.touched - covered.lost
    if covered.lost + dropped <= TOLERATED * covered.spoken:
        return ""
    return " and ".join(
        [f"{covered.lost:,} {of} hold nothing else and are left out"] * (covered.lost > 0)
        + [f"{dropped:,} {of} are trained on without them"] * (dropped > 0)
    )


def advice(config: DictConfig, texts: Iterable[str], tokenizer: Tokenizer, missing: Coverage) -> str:
    """A sentence on which text rules would make transcripts fit the vocabulary, or on what else would.

    texts: after the config's own rules; missing: what the vocabulary lacks of them.
    """
    own = OmegaConf.to_container(config.text.rules)
    assert isinstance(own, list)
    if tokenizer.unit == "phone":
        tried = {f"Put {name} at the end of text.rules": [*own, name] for name in ("lower", "upper")}
    else:
        tried = {f"Give text={name}": _rules_of(name) for name in ("upper", "standard")}
        tried["Put strip_accents at the end of text.rules"] = [*own, "strip_accents"]
    chosen = {
        *np.flatnonzero(missing.unknown)[:SAMPLE].tolist(),
        *np.linspace(0, len(missing.unknown) - 1, SAMPLE, dtype=int).tolist(),
    }
    sample = [text for number, text in enumerate(texts) if number in chosen]
    if name := mending_rules(
        sample,
        tokenizer,
        {name: build_rules(rules, config.dataset.language) for name, rules in tried.items()},
    ):
        return f"{name[0]}, which mends {'it' if name[1] else 'most of it'}."
    new = ", or train a new head (model.head=new)" if config.model.head == "keep" else ""
    return f"Have text.rules replace or remove what the vocabulary lacks{new}."


def _rules_of(name: str) -> list[str]:
    return yaml.safe_load((conf_folder() / "text" / f"{name}.yaml").read_text(encoding="utf-8"))["rules"]
