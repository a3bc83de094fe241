"""What is wrong with a composed config: unknown keys, values out of bounds, keys that contradict each other.

Each rule is a sentence that names the keys and what to change. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from omegaconf import ListConfig, OmegaConf

from asr_exp.config.bounds import bound_problems
from asr_exp.config.kinds import kind_problems
from asr_exp.config.rules_name import text_name
from asr_exp.config.schema import Config, Decode
from asr_exp.core.errors import nearest


def config_problems(config: Any) -> list[str]:
    """Everything that is wrong with a composed config, a sentence each.

    The rules across keys are tried where every key has a value that is allowed.
    """
    of_values = [*_section_problems(Config, config, ""), *kind_problems(config)]
    return of_values or list(_contradictions(config))


def _section_problems(section: type, config: Any, prefix: str) -> Iterator[str]:
    """What is wrong with the keys of a section by themselves; `prefix` is its dotted name and a dot."""
    known = {f.name: f for f in fields(section)}
    for name in config:
        if name not in known:
            yield (
                f"{prefix}{name} is not a key of this program.{nearest(name, known)} Allowed here:"
                f" {', '.join(known)}."
            )
    for name, one in known.items():
        value = config[name] if name in config and not _missing(config, name) else None
        if isinstance(one.type, type) and is_dataclass(one.type) and value is not None:
            yield from _section_problems(one.type, value, f"{prefix}{name}.")
        elif _missing(config, name):
            yield f"{prefix}{name} has no value; give {prefix}{name}=..."
        elif isinstance(value, ListConfig) and any(OmegaConf.is_missing(value, i) for i in range(len(value))):
            yield f"{prefix}{name} has '???' in it, which stands for a value that is not given; drop it."
        elif value is not None:
            yield from bound_problems(f"{prefix}{name}", value, one.metadata)


def _missing(config: Any, name: str) -> bool:
    return OmegaConf.is_missing(config, name)


def _contradictions(config: Any) -> Iterator[str]:
    """The keys that contradict each other, a sentence for each pair."""
    transcribe = config.transcribe
    yield from _rules_of_data(config.dataset)
    yield from _rules_of_tokenizer(config)
    yield from _rules_of_model(config)
    yield from _rules_of_steps(config.trainer)
    yield from _rules_of_training(config)
    yield from _rules_of_decoding(config.decode, config.tokenizer.unit)
    yield from _rules_of_score(config.score, config.tokenizer.unit)
    if transcribe.overlap_seconds > transcribe.chunk_seconds / 2:
        yield (
            f"transcribe.overlap_seconds={transcribe.overlap_seconds:g} is more than half of"
            f" transcribe.chunk_seconds={transcribe.chunk_seconds:g}; lower it, or make the chunks longer."
        )


def _rules_of_data(d: Any) -> Iterator[str]:
    if d.only:
        yield (
            f"dataset.only={d.only} is set by the commands that read one split; for `evaluate` give"
            f" split={d.only}."
        )
    if d.source == "local" and not d.root and d.reader not in ("manifest", "demo"):
        yield (
            f"dataset.source=local needs dataset.root=FOLDER, the folder of {d.name} in its official layout."
        )
    if d.source == "hub" and d.root:
        yield f"dataset.source=hub and dataset.root={d.root} contradict each other; drop one of them."
    if d.root and d.reader in ("demo", "manifest"):
        yield (
            f"dataset.root={d.root} says where a corpus lies, and dataset={d.name} is none; name the corpus:"
            " dataset=timit, ..."
        )
    if d.dev_fraction + d.test_fraction >= 1:
        yield (
            "dataset.dev_fraction and dataset.test_fraction add up to 1 or more and leave nothing to train"
            " on; lower one of them."
        )
    if d.min_seconds >= d.max_seconds:
        yield (
            f"dataset.min_seconds={d.min_seconds} is not below dataset.max_seconds={d.max_seconds}; no clip"
            " would fit between them."
        )


def _rules_of_tokenizer(c: Any) -> Iterator[str]:
    if not c.tokenizer.splits or not set(c.tokenizer.splits) <= {"train", "dev", "test"}:
        yield f"tokenizer.splits={list(c.tokenizer.splits)} must name some of train, dev, test."
    phones = c.tokenizer.unit == "phone"
    rules = {str(rule) if isinstance(rule, str) else next(iter(rule), "") for rule in c.text.rules}
    gives_phones = "espeak" in rules or c.text.name == "phones"
    text = f"text={text_name(c)}"
    if gives_phones and not phones:
        yield (
            f"{text} gives phones, and tokenizer.unit=character would score them as words; give"
            " tokenizer=phone, or text rules that leave words."
        )
    if phones and c.dataset.reader == "timit-phones" and rules - {"collapse_whitespace"}:
        yield f"{text} changes the phones that dataset={c.dataset.name} gives; use text=phones."
    elif phones and c.tokenizer.inventory == "espeak" and not gives_phones and c.text.name != "none":
        yield (
            f"tokenizer.inventory=espeak wants phones, and {text} makes none; give text=espeak to have them"
            " made, text=phones where the transcripts are phones, or tokenizer=character."
        )


def _rules_of_model(c: Any) -> Iterator[str]:
    m = c.model
    if not m.checkpoint and not m.architecture:
        yield (
            f"model={m.name} names no weights; give model.checkpoint=ID_OR_FOLDER (or model.architecture=TYPE"
            " for random weights)."
        )
    if m.checkpoint and m.architecture:
        yield (
            f"model.checkpoint={m.checkpoint} and model.architecture={m.architecture} contradict each other "
            "(pretrained or random weights?); set one of them to null."
        )
    if m.head == "keep" and not m.checkpoint:
        yield (
            "model.head=keep keeps a fine-tuned checkpoint's head, and there is no model.checkpoint; give"
            " one, or model.head=new."
        )
    if m.head == "keep" and c.tokenizer.vocabulary:
        yield (
            "model.head=keep uses the checkpoint's own vocabulary; it contradicts tokenizer.vocabulary, drop"
            " one of them."
        )


def _rules_of_training(c: Any) -> Iterator[str]:
    t = c.trainer
    if t.ema is not None and t.average > 1:
        yield (
            f"trainer.ema={t.ema} and trainer.average={t.average} both average the weights; set"
            " trainer.ema=null or trainer.average=1."
        )
    phones = c.tokenizer.unit == "phone"
    if t.metric in (("dev.wer", "dev.cer") if phones else ("dev.per",)):
        units = "phones" if phones else "characters"
        yield (
            f"trainer.metric={t.metric} is not measured where the model emits {units}"
            f" (tokenizer.unit={c.tokenizer.unit}); give trainer.metric=auto."
        )
    if c.schedule.name == "tri-stage" and c.schedule.warmup_ratio + c.schedule.hold_ratio > 1:
        yield "schedule.warmup_ratio and schedule.hold_ratio add up to more than 1; lower one of them."
    if not all(0.5 <= factor <= 2 for factor in c.augment.speed):
        yield (
            f"augment.speed={list(c.augment.speed)} must be factors between 0.5 and 2, such as [0.9, 1.0,"
            " 1.1]."
        )
    if len(c.optimizer.betas) != 2 or not all(0 <= b < 1 for b in c.optimizer.betas):
        yield f"optimizer.betas={list(c.optimizer.betas)} must be two numbers in [0, 1)."


def _rules_of_decoding(d: Any, unit: str) -> Iterator[str]:
    defaults = {f.name: f.default for f in fields(Decode) if f.metadata["help"].startswith("beam:")}
    if d.name != "beam":
        changed = [
            name
            for name, default in defaults.items()
            if (list(d[name]) if name == "hot_words" else d[name]) != default and d[name]
        ]
        if changed:
            yield (
                f"decode.{changed[0]}={d[changed[0]]} is a key of decode=beam, and the decoder is {d.name};"
                " add decode=beam, or drop it."
            )
        return
    if d.settings:
        yield "decode.settings is for a plugin's decoder; beam search has keys of its own: see --help decode."
    if d.tune and d.lm in (None, "none"):
        yield (
            "decode.tune=true weighs a language model, and there is none; add decode.lm=train-text (or a"
            " file)."
        )
    for name in (
        name for name in ("lm_weight", "order") if d.lm in (None, "none") and d[name] != defaults[name]
    ):
        yield (
            f"decode.{name}={d[name]} is of a language model, and there is none; add decode.lm=train-text (or"
            f" a file), or leave it at {'null' if defaults[name] is None else defaults[name]}."
        )
    if unit == "phone" and d.lexicon not in (None, "auto"):
        yield (
            f"decode.lexicon={d.lexicon} is of words, and the model emits phones (tokenizer.unit=phone);"
            " drop it."
        )
    if any(not words.strip() for words in d.hot_words):
        yield "decode.hot_words has an empty word in it; write them as decode.hot_words=[robot,living room]."


def _rules_of_score(s: Any, unit: str) -> Iterator[str]:
    if unit == "phone" and (s.references == "corpus" or s.compounds != "apart"):
        yield (
            f"score={s.name} is of words, and the model emits phones (tokenizer.unit=phone); give score=same,"
            " or rules of your own by score.rules."
        )
    if s.name == "same" and s.references == "corpus" and not s.rules:
        yield (
            "score.references=corpus compares transcripts as the corpus has them with what the model spells;"
            " say by which rules: score.rules=[...], or score=whisper."
        )


def _rules_of_steps(t: Any) -> Iterator[str]:
    if t.max_steps is None and t.max_epochs is None:
        yield (
            "trainer.max_steps and trainer.max_epochs are both null, so the run would never end; give one of"
            " them."
        )
    if t.batch_seconds is None and t.batch_utterances is None:
        yield (
            "trainer.batch_seconds and trainer.batch_utterances are both null, so a step would have no size;"
            " give one of them."
        )
    if t.batch_seconds is not None and t.batch_utterances is not None:
        yield (
            f"trainer.batch_seconds={t.batch_seconds:g} and trainer.batch_utterances={t.batch_utterances}"
            " both say how large a step is; set one of them to null."
        )
    if t.batch_utterances is not None and t.batch_utterances < t.devices:
        yield (
            f"trainer.batch_utterances={t.batch_utterances} leaves some of trainer.devices={t.devices}"
            " without an utterance; give at least one for each."
        )
    if ":" in t.device and t.devices > 1:
        yield (
            f"trainer.device={t.device} is one GPU, and trainer.devices={t.devices} needs as many; give"
            " trainer.device=cuda, and choose them by CUDA_VISIBLE_DEVICES."
        )
    if t.select == "last" and t.patience is not None:
        yield (
            f"trainer.patience={t.patience} stops where dev gets no better, and trainer.select=last does not"
            " look at dev; set trainer.patience=null or trainer.select=best."
        )
