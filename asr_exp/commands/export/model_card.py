"""The model card of an exported recogniser: what its run's files say of data, training, protocol and scores,
and no more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from asr_exp.core.console import counted, duration, percent

# MLS names its languages in words, the hub by ISO 639.
_CODES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}
_SECRET = re.compile(r"(token|key|password|secret)", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What a card is made of. config: the run's resolved settings; result: its result.json (None: no run of
    ours, or none yet); evaluations: the result.json of each score that is kept apart; environment: its
    environment.json.

    onnx: a sentence on each ONNX file, by its path in the folder. where: what a user loads it by, an id or a
    folder's name.
    """

    name: str
    where: str
    model_type: str
    parameters: int
    rate: int
    sees_mask: bool
    vocabulary: Sequence[str]
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    onnx: Mapping[str, str] = field(default_factory=dict)


def model_card(facts: Facts) -> str:
    """The README.md of the folder, with the hub's metadata before it."""
    head = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)
    parts = [_summary(facts), _scores(facts), _use(facts), _training(facts), _limits(facts), _origin(facts)]
    return f"---\n{head}---\n\n# {facts.name}\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _finished(facts: Facts) -> Mapping[str, Any] | None:
    """The result of a finished run, whose scores may be claimed."""
    result = facts.result or {}
    return result if result.get("status") == "finished" and not result.get("rehearsal") else None


def _is_id(checkpoint: str | None) -> bool:
    """Whether a checkpoint is one of the hub: ORGANISATION/NAME, and no folder's path."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint or ""))


def _language(facts: Facts) -> str | None:
    language = str(facts.config["dataset"]["language"] or "").lower()
    code = _CODES.get(language, re.split("[-_]", language)[0])
    return code if re.fullmatch("[a-z]{2,3}", code) else None


def _metadata(facts: Facts) -> dict[str, Any]:
    """The front matter, as the hub reads it; scores of a finished run alone."""
    dataset = facts.config["dataset"]
    checkpoint = facts.config["model"]["checkpoint"]
    language = _language(facts)
    metadata: dict[str, Any] = {"language": [language]} if language and facts.result else {}
    metadata |= {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": [
            "automatic-speech-recognition",
            "ctc",
            facts.model_type,
            "asr_exp",
            *(["onnx"] if facts.onnx else []),
        ],
    }
    if facts.result and _is_id(checkpoint):
        metadata["base_model"] = checkpoint
    if facts.result and dataset["hub"]["id"]:
        metadata["datasets"] = [dataset["hub"]["id"]]
    finished = _finished(facts) or {"splits": {}}
    test = finished["splits"].get("test") or {}
    rates = {name: test[name] for name in ("wer", "cer", "per") if test.get(name) is not None}
    if rates:
        subset = "+".join(finished["protocol"]["split"])
        metadata["metrics"] = list(rates)
        metadata["model-index"] = [
            {
                "name": facts.name,
                "results": [
                    {
                        "task": {
                            "type": "automatic-speech-recognition",
                            "name": "Automatic Speech Recognition",
                        },
                        "dataset": {
                            "type": dataset["hub"]["id"] or dataset["name"],
                            "name": dataset["name"],
                            "split": subset,
                        },
                        "metrics": [
                            {"type": name, "value": round(100 * rate, 4), "name": f"{name.upper()}, percent"}
                            for name, rate in rates.items()
                        ],
                    }
                ],
            }
        ]
    return metadata


def _summary(facts: Facts) -> str:
    size = f"{facts.parameters / 1e6:,.0f} M" if facts.parameters >= 1e6 else f"{facts.parameters:,}"
    what = f"A speech recogniser: a {facts.model_type} network of {size} parameters with a CTC head"
    if not facts.result:
        return (
            f"{what}. It is no run of asr_exp that has left a result.json: nothing is known here of its"
            " training or its scores."
        )
    m, d = facts.config["model"], facts.config["dataset"]
    origin = (
        f"fine-tuned from {_shown(m['checkpoint'])} on"
        if m["checkpoint"]
        else "trained from random weights on"
    )
    if m["checkpoint"] and not (facts.result.get("train") or {"steps": 1})["steps"]:
        origin = f"taken as it is from {_shown(m['checkpoint'])}, and scored on"
    lines = [
        f"{what}, {origin} {d['name']}{_of_language(d)} with asr_exp"
        f" {facts.result['versions'].get('asr_exp', '')}."
    ]
    if facts.result.get("rehearsal"):
        lines.append("**It is a rehearsal's: tiny weights after a few steps. Its scores mean nothing.**")
    if facts.result["status"] != "finished":
        best = facts.result.get("best") or {}
        step = (
            f" It is the best checkpoint so far, of step {best['step']:,}."
            if best.get("step") is not None
            else ""
        )
        lines.append(f"**The run is not finished (its status is `{facts.result['status']}`).**{step}")
    return "\n\n".join(lines)


def _of_language(dataset: Mapping[str, Any]) -> str:
    return f" ({dataset['language']})" if dataset["language"] else ""


def _shown(checkpoint: str) -> str:
    """A checkpoint's id, or the name of its folder: where it lay is nobody's business."""
    if _is_id(checkpoint) or checkpoint.startswith("builtin:"):
        return f"`{checkpoint}`"
    return f"the folder `{checkpoint.rstrip('/').rpartition('/')[2]}`"


# ------------------------------------------------------------------------------------------------------------
# scores


def _scores(facts: Facts) -> str:
    splits = facts.result.get("splits") if facts.result else None
    if not facts.result or not splits:
        return "## Scores\n\nNone: it was not scored." if facts.result else ""
    main, protocol = _main(splits), facts.result.get("protocol") or {}
    lines = [
        f"| split | decoder | {main.upper()} | 95 % interval | CER | utterances | coverage | protocol |",
        "|---" * 8 + "|",
    ]
    lines += [
        _row(f"{facts.config['dataset']['name']} {name}", one, main, protocol) for name, one in splits.items()
    ]
    protocols = [protocol]
    for other in facts.evaluations:
        asked = other["protocol"]
        rows = [
            _row(f"{asked['dataset']} {name}", one, main, asked)
            for name, one in other["splits"].items()
            if _main({"": one}) == main
        ]
        lines, protocols = [*lines, *rows], [*protocols, *([asked] if rows else [])]
    notes = [
        "Rates are edits per unit of the reference. The interval is Student's, with whole speakers left out"
        " in turn (utterances, where speakers are not known); a dash is where nothing tells how far to trust"
        " the score."
    ]
    if "dev" in splits and facts.result.get("best") and facts.config["trainer"]["select"] == "best":
        notes.append("The checkpoint was chosen by its score on dev, so that score flatters it.")
    if protocol and protocol["decoder"] != "greedy":
        notes.append(
            f"They are those of the decoder {protocol['decoder']}; transformers takes the best label of each"
            " frame."
        )
    return "\n".join(["## Scores", "", *lines, "", *notes, "", *(f"- {_protocol(one)}" for one in protocols)])


def _protocol(protocol: Mapping[str, Any]) -> str:
    inventory = f", phones of {protocol['inventory']}" if protocol.get("inventory") else ""
    return (
        f"Protocol `{protocol.get('hash')}` ({protocol.get('name')}): text rules"
        f" {_code(protocol.get('rules'))}{inventory}, padding {protocol.get('padding')}."
    )


def _main(splits: Mapping[str, Mapping[str, Any]]) -> str:
    return "per" if all(one["wer"] is None for one in splits.values()) else "wer"


def _row(name: str, one: Mapping[str, Any], main: str, protocol: Mapping[str, Any]) -> str:
    within = one.get("ci95")
    interval = f"{percent(within[0])} to {percent(within[1])}" if within else "-"
    decoder = str(protocol.get("decoder")).replace("|", r"\|")  # between hot words
    cells = [
        name,
        decoder,
        percent(one[main]),
        interval,
        percent(one["cer"]),
        f"{one['utterances']:,}",
        percent(one["coverage"]),
        f"`{protocol.get('hash')}`",
    ]
    return "| " + " | ".join(cells) + " |"


def _code(rules: Any) -> str:
    return ", ".join(f"`{rule}`" for rule in rules or []) or "none"


# ------------------------------------------------------------------------------------------------------------
# use


def _use(facts: Facts) -> str:
    text = f"""## Use

```python
from transformers import pipeline

recognise = pipeline("automatic-speech-recognition", model="{facts.where}")
recognise({{"raw": samples, "sampling_rate": {facts.rate}}})["text"]  # samples: float32, mono, full scale at 1
```"""
    if not facts.onnx:
        return text
    hub = "from huggingface_hub import snapshot_download\n" if "/" in facts.where else ""
    folder = f'snapshot_download("{facts.where}")' if hub else f'"{facts.where}"'
    listed = "\n".join(f"- `{path}`: {sentence}" for path, sentence in facts.onnx.items())
    return (
        text
        + f"""

As ONNX, `input_values` (batch, samples) to `logits` (batch, frames, vocabulary). What it takes is what the feature extractor makes of
samples ({_preprocessing(facts)});
the recordings of a batch have one length, as there is no attention mask.

{listed}

```python
import onnxruntime
{hub}from transformers import AutoProcessor

folder = {folder}
processor, session = AutoProcessor.from_pretrained(folder), onnxruntime.InferenceSession(folder + "/onnx/model.onnx")
values = processor(audio=samples, sampling_rate={facts.rate}, return_tensors="np").input_values
(logits,) = session.run(["logits"], {{"input_values": values}})
processor.batch_decode(logits.argmax(-1))
```"""
    )


def _preprocessing(facts: Facts) -> str:
    return (
        f"`preprocessor_config.json`: {facts.rate:,} Hz, mono, zero mean and unit variance where"
        " `do_normalize` says so"
    )


# ------------------------------------------------------------------------------------------------------------
# training, limits


def _training(facts: Facts) -> str:
    if not facts.result:
        return ""
    c, train = facts.config, facts.result.get("train") or {}
    o = c["optimizer"]
    s = c["schedule"]
    t = c["trainer"]
    a = c["augment"]
    warmup = f"{s['warmup_ratio']:.0%} of all" if s["warmup_steps"] is None else f"{s['warmup_steps']:,}"
    step = (
        f"{t['batch_seconds']:g} s of audio"
        if t["batch_seconds"] is not None
        else counted(t["batch_utterances"], "utterance")
    )
    rows = {
        "data": (
            f"{c['dataset']['name']}{_of_language(c['dataset'])}, train:"
            f" {_code(_as_list(c['dataset']['train']))}"
        ),
        "steps": f"{train['steps']:,} of {step}, {train['epochs']:g} passes over the data" if train else "",
        "heard": (
            f"{train['audio_seconds'] / 3600:.1f} h of audio in {duration(train['wall_seconds'])}"
            if train
            else ""
        ),
        "optimizer": (
            f"{o['name']}, learning rate {o['lr']:g}, weight decay {o['weight_decay']:g}, clipped at"
            f" {o['clip_norm']}"
        ),
        "schedule": f"{s['name']}, warm-up over {warmup} steps",
        "masks, dropout": ", ".join(
            f"{key} {value}" for key, value in a.items() if key != "name" and value not in (None, [])
        ),
        "frozen": _frozen(c["model"]),
        "precision": str(facts.environment.get("precision") or ""),
        "device": (
            f"{facts.environment.get('devices')} x {facts.environment.get('device')}"
            if facts.environment
            else ""
        ),
        "seed": str(facts.result["seed"]),
    }
    body = "\n".join(f"| {name} | {text} |" for name, text in rows.items() if text)
    return f"## Training\n\n| | |\n|---|---|\n{body}"


def _frozen(model: Mapping[str, Any]) -> str:
    parts = [
        *(["the convolutional front end"] if model["freeze_front_end"] else []),
        *(f"`{pattern}`" for pattern in model["freeze"]),
    ]
    if model["freeze_encoder_steps"]:
        parts.append(f"all but the head for {model['freeze_encoder_steps']:,} steps")
    return ", ".join(parts) or "nothing"


def _limits(facts: Facts) -> str:
    units = " ".join("(space)" if unit == "|" else unit.strip() for unit in facts.vocabulary)
    lines = [
        (
            f"It writes these {len(facts.vocabulary)} units and no others, [UNK] and [PAD] being none of"
            f" speech: `{units}`."
            if len(units) < 600
            else f"It writes the {len(facts.vocabulary)} units of `vocab.json` and no others."
        )
    ]
    if facts.result:
        lines.append(
            f"Its text went through {_code(facts.config['text']['rules'])}: what these take away, it cannot"
            " write."
        )
        speakers = [len(one.get("rate_by_speaker") or {}) for one in facts.result.get("splits", {}).values()]
        heard = (
            f"{counted(max(speakers), 'speaker')} at the most"
            if any(speakers)
            else "speakers who are not told apart"
        )
        lines.append(
            f"The scores above are of {heard}. Of other voices, rooms, microphones and ways to speak nothing"
            " was measured."
        )
    lines.append(f"It takes audio at {facts.rate:,} Hz; resample anything else first.")
    if not facts.sees_mask:
        lines.append(
            "It sees no attention mask: feed recordings one at a time, or of one length. What it says of a"
            " padded one is another."
        )
    lines.append(
        "No licence is stated here: it follows from those of the pretrained weights and of the data."
    )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _origin(facts: Facts) -> str:
    """The command, without the places of this machine, and the versions."""
    if not facts.result:
        return ""
    command = " ".join(_without_place(word) for word in facts.environment.get("command", []))
    versions = ", ".join(f"{name} {version}" for name, version in facts.result["versions"].items())
    commit = f" Commit `{facts.environment['git_commit']}`." if facts.environment.get("git_commit") else ""
    made = f"```bash\n{command}\n```\n\n" if command else ""
    return (
        f"## How it was made\n\n{made}Run `{facts.result['signature']}`, seed {facts.result['seed']}.{commit}"
        f" {versions}."
    )


def _without_place(word: str) -> str:
    """A word of a command line without the folders above a path, and without what may be a secret."""
    name, equals, value = word.rpartition("=")
    if equals and _SECRET.search(name):
        return f"{name}=..."
    return (
        name + equals + re.sub(r"(?<![\w.-])(?:~|\.{1,2})?/(?:[^/,\[\]\s]+/)+(?=[^/,\[\]\s])", ".../", value)
    )


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
