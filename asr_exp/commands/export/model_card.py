"""The model card of an exported recogniser: what its run's files say of data, training, protocol and scores,
and no more. The text is in card.md.jinja.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_exp.commands.export.card_metadata import metadata
from asr_exp.commands.export.facts import Facts, is_hub_id
from asr_exp.core.console import counted, duration, percent
from asr_exp.core.templates import render

SECRET = re.compile(r"(token|key|password|secret)", re.IGNORECASE)
MAX_UNITS = 600  # characters of the vocabulary that a card lists


def model_card(facts: Facts) -> str:
    """The README.md of the folder, with the hub's metadata before it."""
    metric = "per" if facts.splits and all(one["wer"] is None for one in facts.splits.values()) else "wer"
    result = facts.result or {}
    protocol = result.get("protocol") or {}
    scores, protocols = _score_rows(facts, metric, protocol)
    text = render(
        Path(__file__).with_name("card.md.jinja"),
        chosen_on_dev=_is_chosen_on_dev(facts),
        code=_code,
        commit=facts.environment.get("git_commit"),
        command=" ".join(_without_place(word) for word in facts.environment.get("command", [])),
        decoder=protocol.get("decoder"),
        facts=facts,
        limits=_limits(facts),
        metadata=metadata(facts).to_yaml(),
        metric=metric,
        protocols=protocols,
        rate=f"{facts.rate:,}",
        scores=scores,
        summary=_summary(facts),
        training=_training(facts) if facts.result else {},
        versions=", ".join(f"{name} {version}" for name, version in result.get("versions", {}).items()),
    )
    return text.rstrip("\n") + "\n"


def _summary(facts: Facts) -> list[str]:
    """The paragraphs on what the model is, and on what its scores are worth."""
    size = f"{facts.parameters / 1e6:,.0f} M" if facts.parameters >= 1e6 else f"{facts.parameters:,}"
    what = f"A speech recogniser: a {facts.model_type} network of {size} parameters with a CTC head"
    if not facts.result:
        return [
            f"{what}. It is no run of asr_exp that has left a result.json: nothing is known here of its"
            " training or its scores."
        ]
    dataset, version = facts.config["dataset"], (facts.result.get("versions") or {}).get("asr_exp", "")
    corpus = dataset["name"] + _of_language(dataset)
    paragraphs = [f"{what}, {_origin(facts)} {corpus} with asr_exp {version}."]
    if facts.result.get("rehearsal"):
        paragraphs.append("**It is a rehearsal's: tiny weights after a few steps. Its scores mean nothing.**")
    if facts.result["status"] != "finished":
        step = (facts.result.get("best") or {}).get("step")
        best = "" if step is None else f" It is the best checkpoint so far, of step {step:,}."
        paragraphs.append(f"**The run is not finished (its status is `{facts.result['status']}`).**{best}")
    return paragraphs


def _origin(facts: Facts) -> str:
    """How the weights came to be, up to the name of the dataset."""
    if not facts.checkpoint:
        return "trained from random weights on"
    if not ((facts.result or {}).get("train") or {"steps": 1})["steps"]:
        return f"taken as it is from {_shown(facts.checkpoint)}, and scored on"
    return f"fine-tuned from {_shown(facts.checkpoint)} on"


def _of_language(dataset: Mapping[str, Any]) -> str:
    return f" ({dataset['language']})" if dataset["language"] else ""


def _shown(checkpoint: str) -> str:
    """A checkpoint's id, or the name of its folder without the private path to it."""
    if is_hub_id(checkpoint) or checkpoint.startswith("builtin:"):
        return f"`{checkpoint}`"
    return f"the folder `{checkpoint.rstrip('/').rpartition('/')[2]}`"


# ------------------------------------------------------------------------------------------------------------
# scores


def _score_rows(
    facts: Facts, metric: str, protocol: Mapping[str, Any]
) -> tuple[list[list[str]], list[Mapping[str, Any]]]:
    """The rows of the table of scores, and their protocols: the run's own, then those of later evaluations by
    the same metric.
    """
    if not facts.splits:
        return [], []
    corpus = facts.config["dataset"]["name"]
    rows = [_score_row(f"{corpus} {name}", one, metric, protocol) for name, one in facts.splits.items()]
    protocols = [protocol]
    for evaluation in facts.evaluations:
        other = evaluation["protocol"]
        same = {
            name: one
            for name, one in evaluation["splits"].items()
            if ("per" if one["wer"] is None else "wer") == metric
        }
        rows += [_score_row(f"{other['dataset']} {name}", one, metric, other) for name, one in same.items()]
        protocols += [other] if same else []
    return rows, protocols


def _score_row(name: str, score: Mapping[str, Any], metric: str, protocol: Mapping[str, Any]) -> list[str]:
    interval = score.get("ci95")
    return [
        name,
        str(protocol.get("decoder")).replace("|", r"\|"),  # between hot words
        percent(score[metric]),
        f"{percent(interval[0])} to {percent(interval[1])}" if interval else "-",
        percent(score["cer"]),
        f"{score['utterances']:,}",
        percent(score["coverage"]),
        f"`{protocol.get('hash')}`",
    ]


def _is_chosen_on_dev(facts: Facts) -> bool:
    best = (facts.result or {}).get("best")
    return bool("dev" in facts.splits and best and facts.config["trainer"]["select"] == "best")


def _code(rules: Any) -> str:
    return ", ".join(f"`{rule}`" for rule in rules or []) or "none"


# ------------------------------------------------------------------------------------------------------------
# training, limits


def _training(facts: Facts) -> dict[str, str]:
    """The rows of the table of training; those without a text are left out."""
    config, environment = facts.config, facts.environment
    result = facts.result or {}
    train = result.get("train") or {}
    optimizer = config["optimizer"]
    schedule = config["schedule"]
    trainer = config["trainer"]
    if trainer["batch_seconds"] is not None:
        step = f"{trainer['batch_seconds']:g} s of audio"
    else:
        step = counted(trainer["batch_utterances"], "utterance")
    if schedule["warmup_steps"] is None:
        warmup = f"{schedule['warmup_ratio']:.0%} of all"
    else:
        warmup = f"{schedule['warmup_steps']:,}"
    masks = {key: value for key, value in config["augment"].items() if key != "name"}
    steps = hours = ""
    if {"steps", "epochs", "audio_seconds", "wall_seconds"} <= train.keys():
        steps = f"{train['steps']:,} of {step}, {train['epochs']:g} passes over the data"
        hours = f"{train['audio_seconds'] / 3600:.1f} h of audio in {duration(train['wall_seconds'])}"
    dataset = config["dataset"]
    device = f"{environment.get('devices')} x {environment.get('device')}" if environment else ""
    return {
        "data": f"{dataset['name']}{_of_language(dataset)}, train: {_code(_as_list(dataset['train']))}",
        "steps": steps,
        "heard": hours,
        "optimizer": (
            f"{optimizer['name']}, learning rate {optimizer['lr']:g}, weight decay"
            f" {optimizer['weight_decay']:g}, clipped at {optimizer['clip_norm']}"
        ),
        "schedule": f"{schedule['name']}, warm-up over {warmup} steps",
        "masks, dropout": ", ".join(
            f"{key} {value}" for key, value in masks.items() if value not in (None, [])
        ),
        "frozen": _frozen(config["model"]),
        "precision": str(environment.get("precision") or ""),
        "device": device,
        "seed": str(result["seed"]),
    }


def _frozen(model: Mapping[str, Any]) -> str:
    parts = ["the convolutional front end"] if model["freeze_front_end"] else []
    parts += [f"`{pattern}`" for pattern in model["freeze"]]
    if model["freeze_encoder_steps"]:
        parts.append(f"all but the head for {model['freeze_encoder_steps']:,} steps")
    return ", ".join(parts) or "nothing"


def _limits(facts: Facts) -> list[str]:
    """The sentences on what the model cannot do, or was not tested for."""
    units = " ".join("(space)" if unit == "|" else unit.strip() for unit in facts.vocabulary)
    sentences = [f"It writes the {len(facts.vocabulary)} units of `vocab.json` and no others."]
    if len(units) < MAX_UNITS:
        sentences = [
            f"It writes these {len(facts.vocabulary)} units and no others, [UNK] and [PAD] being none of"
            f" speech: `{units}`."
        ]
    if facts.result:
        rules = _code(facts.config["text"]["rules"])
        sentences.append(f"Its text went through {rules}: what these take away, it cannot write.")
        speakers = max((len(one.get("rate_by_speaker") or {}) for one in facts.splits.values()), default=0)
        voices = (
            f"{counted(speakers, 'speaker')} at the most" if speakers else "speakers who are not told apart"
        )
        sentences.append(
            f"The scores above are of {voices}. Of other voices, rooms, microphones and ways to speak nothing"
            " was measured."
        )
    sentences.append(f"It takes audio at {facts.rate:,} Hz; resample anything else first.")
    if not facts.sees_mask:
        sentences.append(
            "It sees no attention mask: feed recordings one at a time, or of one length. What it says of a"
            " padded one is another."
        )
    sentences.append(
        "No licence is stated here: it follows from those of the pretrained weights and of the data."
    )
    return sentences


def _without_place(word: str) -> str:
    """A word of a command line without the folders above a path, and without what may be a secret."""
    name, equals, value = word.rpartition("=")
    if equals and SECRET.search(name):
        return f"{name}=..."
    path = r"(?<![\w.-])(?:~|\.{1,2})?/(?:[^/,\[\]\s]+/)+(?=[^/,\[\]\s])"
    return name + equals + re.sub(path, ".../", value)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
