"""The utterances that a run would use, and why it would leave the others out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from asr_exp.commands.check.findings import CheckedUtterance
from asr_exp.commands.check.loading import CheckedModel
from asr_exp.commands.check.trial_step import DecodeOnDemand
from asr_exp.data.corpora import Utterances
from asr_exp.data.filtering import LengthLimits, rejection_reason
from asr_exp.data.prepare import Split


@dataclass(frozen=True)
class Exclusions:
    """Reasons, one for each utterance; '' where there is none.

    left_out: why a run leaves an utterance out of its split. unlearnable: why an utterance that is scored
    could not be trained on, where that is the fault of its transcript: no model recognises it.
    """

    left_out: list[str]
    unlearnable: list[str]


def find_exclusions(
    utterances: Sequence[CheckedUtterance], model: CheckedModel, limits: LengthLimits
) -> Exclusions:
    """Apply the rules by which `prepare` leaves utterances out."""
    tokenizer = model.tokenizer
    targets = [tokenizer.target(one.text) for one in utterances]

    def reason(i: int, split: str) -> str:
        samples = round(utterances[i].clip.seconds * model.rate)
        return rejection_reason(split, samples, model.rate, targets[i], tokenizer, limits)

    left_out = [one.clip.reason and "broken" or reason(i, one.split) for i, one in enumerate(utterances)]
    as_train = ["" if why else reason(i, "train") for i, why in enumerate(left_out)]
    unlearnable = [why if why.startswith(("labels longer", "no character")) else "" for why in as_train]
    return Exclusions(left_out, unlearnable)


def usable_splits(
    utterances: Sequence[CheckedUtterance],
    exclusions: Exclusions,
    names: Iterable[str],
    model: CheckedModel,
) -> dict[str, Split]:
    """The splits of these names as a run would have them, with audio that is decoded when it is needed."""
    splits = {}
    for name in names:
        kept = [
            one
            for one, why in zip(utterances, exclusions.left_out, strict=True)
            if one.split == name and not why
        ]
        rows = Utterances(replace(one.utterance, text=one.text) for one in kept)
        seconds = np.array([one.clip.seconds for one in kept])
        audio = DecodeOnDemand(rows, seconds, model.rate)
        splits[name] = Split(name, rows, model.tokenizer, seconds, [], audio, np.arange(len(kept)))  # type: ignore[arg-type]
    return splits
