"""Findings about transcripts: compared with their recordings, with each other and with the vocabulary."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median

from asr_exp.commands.check.findings import (
    FAIL,
    NOTE,
    WARN,
    CheckedUtterance,
    Concern,
    Finding,
    concerns,
    counted,
    exclusion_level,
)
from asr_exp.commands.check.report import most_common
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.vocabulary import TOLERATED, Coverage, coverage

RARE = 5  # occurrences in the training split; from fewer a model does not learn a unit
# units of a training split in which every letter should occur often enough; in a smaller one x and q are rare
# by nature
LARGE_SPLIT = 50_000
MAX_UNKNOWN = 0.005  # share of a split's units outside the vocabulary, above which its score has a floor
MAX_REPEATED = 0.05  # share of the training split that repeats a sentence of the same speaker
MAX_OVERLAP = 0.01  # share of a split's sentences that are in the training split as well
MAX_PACE = 30.0  # characters a second; people speak 10 to 20
MIN_PACE = 1.0
MIN_PACE_SECONDS = 3  # length of the clips that are tested against MIN_PACE: short ones may be one word
SPLITS = ("train", "dev", "test")
_VALUES = re.compile(r"'[^']*'|-?\d[\d.e+-]*|\\\w+")  # in a reason: reasons that differ by them alone are one

# Reasons of `prepare.rejection_reason` by their beginning, to (fault, text, advice). Empty transcripts are
# findings of `empty_transcripts`.
_EXCLUSIONS = {
    "too short": (
        "too-short",
        "Too short (dataset.min_seconds, or less than a frame of the model)",
        "They are left out; lower dataset.min_seconds to keep them.",
    ),
    "too long": (
        "too-long",
        "Too long (dataset.max_seconds for training, max_eval_seconds for scoring)",
        "They are left out; cut them into segments, or raise the limit if memory allows.",
    ),
    "no character": (
        "unwritable",
        "Not one character in the vocabulary",
        "Look at dataset.columns.text, text.rules and the vocabulary.",
    ),
    "labels longer": (
        "labels-longer-than-frames",
        "More labels than the audio has frames",
        "CTC cannot align them. Does each transcript belong to its recording?",
    ),
}


def excluded(
    utterances: Sequence[CheckedUtterance], reasons: Sequence[str], level: str = ""
) -> Iterator[Finding]:
    """Utterances that a run leaves out for their length or their transcript.

    reasons: of `prepare.rejection_reason`, one for each utterance, '' for those that are kept. level: of the
    findings; by default it depends on how many utterances are left out.
    """
    for beginning, (fault, text, advice) in _EXCLUSIONS.items():
        indices = [i for i, reason in enumerate(reasons) if reason.startswith(beginning)]
        if indices:
            concerned = [concerns([utterances[i]], reasons[i])[0] for i in indices]
            yield Finding(
                level or exclusion_level([utterances[i] for i in indices], utterances),
                fault,
                f"{text}, {counted(concerned)}",
                advice,
                concerned,
            )


def speaking_rates(utterances: Sequence[CheckedUtterance]) -> Iterator[Finding]:
    """Transcripts with more or fewer characters a second than anybody speaks: often each belongs to the next
    recording.

    There is no finding where the median itself is unusual: then the script has other units than letters.
    """
    paces = [
        (one, len(one.text.strip()) / one.clip.seconds)
        for one in utterances
        if one.clip.seconds >= 1 and one.text.strip() and not one.clip.reason
    ]
    if not paces or not MIN_PACE * 3 < median(pace for _, pace in paces) < MAX_PACE / 1.5:
        return
    fast = [(one, pace) for one, pace in paces if pace > MAX_PACE]
    slow = [(one, pace) for one, pace in paces if pace < MIN_PACE and one.clip.seconds >= MIN_PACE_SECONDS]
    for fault, text, unusual in (
        ("too-much-text", f"More than {MAX_PACE:g} characters a second", fast),
        ("too-little-text", f"Less than {MIN_PACE:g} character a second", slow),
    ):
        if unusual:
            concerned = [concerns([one], f"{pace:.1f} characters a second")[0] for one, pace in unusual]
            advice = "Listen: does the transcript belong to the recording?"
            yield Finding(WARN, fault, f"{text}, {counted(concerned)}", advice, concerned)


def empty_transcripts(utterances: Sequence[CheckedUtterance]) -> Iterator[Finding]:
    """Transcripts that are empty, or of which the text rules leave nothing."""
    empty = [one for one in utterances if not one.utterance.text.strip()]
    emptied = [one for one in utterances if one.utterance.text.strip() and not one.text.strip()]
    if empty:
        yield Finding(
            exclusion_level(empty, utterances),
            "empty-transcript",
            f"Empty transcripts, {counted(empty)}",
            "Drop those rows.",
            concerns(empty, "empty transcript"),
        )
    if emptied:
        yield Finding(
            exclusion_level(emptied, utterances),
            "emptied-transcript",
            f"Nothing left after the text rules, {counted(emptied)}",
            "Spell numbers and signs out, or choose another text=...",
            concerns(emptied, lambda one: repr(one.utterance.text)),
        )


def repeated_sentences(utterances: Sequence[CheckedUtterance]) -> Iterator[Finding]:
    """Sentences that the same speaker says more than once in a split. (Many corpora have many speakers read
    the same sentence.)
    """
    for split in SPLITS:
        in_split = [one for one in utterances if one.split == split and one.text.strip()]
        first: dict[tuple[str | None, str], str] = {}
        repeated = [one for one in in_split if first.setdefault(_spoken(one), one.id) != one.id]
        if not repeated:
            continue
        text, times = Counter(one.text.strip() for one in repeated).most_common(1)[0]
        text = text if len(text) <= 40 else text[:37] + "..."
        level = WARN if len(repeated) > MAX_REPEATED * len(in_split) and split == "train" else NOTE
        by_speaker = "by the same speaker " if in_split[0].utterance.speaker else ""
        yield Finding(
            level,
            "duplicate-transcript",
            f"Said again {by_speaker}('{text}': {times + 1} times), {counted(repeated)}",
            (
                ""
                if level == NOTE
                else "Fine for digits and commands; else look for rows that stand there twice."
            ),
            [concerns([one], f"the same text as {first[_spoken(one)]}")[0] for one in repeated],
        )


def _spoken(one: CheckedUtterance) -> tuple[str | None, str]:
    return one.utterance.speaker, one.text.strip()


def split_overlaps(utterances: Sequence[CheckedUtterance]) -> Iterator[Finding]:
    """Sentences and speakers of dev or test that are in train as well."""
    train = [one for one in utterances if one.split == "train"]
    id_of = {one.text.strip(): one.id for one in train if one.text.strip()}
    speakers = {one.utterance.speaker for one in train} - {None}
    for split in SPLITS[1:]:
        in_split = [one for one in utterances if one.split == split]
        same_sentence = [one for one in in_split if one.text.strip() in id_of]
        if same_sentence:
            yield Finding(
                WARN if len(same_sentence) > MAX_OVERLAP * len(in_split) else NOTE,
                "sentence-overlap",
                f"{len(same_sentence):,} of {len(in_split):,} sentences of {split} are in train too",
                "Fine where that is the task (commands, digits); else that score flatters: split by"
                " sentence.",
                concerns(same_sentence, lambda one: f"the sentence of {id_of[one.text.strip()]}"),
            )
        same_speaker = [one for one in in_split if one.utterance.speaker in speakers]
        if same_speaker:
            shared = len({one.utterance.speaker for one in same_speaker})
            yield Finding(
                WARN,
                "speaker-overlap",
                f"{shared:,} of {len({one.utterance.speaker for one in in_split}):,} speakers of {split} are"
                " in train too",
                "The score will not say how new voices fare: split by speaker.",
                concerns(same_speaker, lambda one: f"speaker {one.utterance.speaker}"),
            )


# ------------------------------------------------------------------------------------------------------------
# the vocabulary


def units(text: str, tokenizer: Tokenizer) -> Iterable[str]:
    """The units of a transcript: its characters, or its phones in the training inventory."""
    return tokenizer.target(text).split() if tokenizer.unit == "phone" else text.strip()


def vocabulary(
    utterances: Sequence[CheckedUtterance],
    tokenizer: Tokenizer,
    built_from_train: bool,
    advise: Callable[[list[str], Coverage], str],
) -> Iterator[Finding]:
    """Units of the transcripts that the vocabulary lacks, and units that are too rare to be learned.

    built_from_train: whether the vocabulary was built from the training split. advise: what to do about
    transcripts and what the vocabulary lacks of them.
    """
    unit_name = "phones" if tokenizer.unit == "phone" else "characters"
    train_counts: Counter[str] = Counter()
    for split in SPLITS:
        in_split = [one for one in utterances if one.split == split]
        covered = coverage([one.text for one in in_split], tokenizer)
        if split == "train":
            train_counts = covered.inside
        if covered.outside:
            touched = [one for one, n in zip(in_split, covered.unknown, strict=True) if n]
            yield Finding(
                FAIL if covered.share > MAX_UNKNOWN else WARN,
                "outside-vocabulary",
                f"{100 * covered.share:.2f} % of the {unit_name} of {split} are not in the vocabulary and"
                f" cannot be recognised: {_quoted(covered.outside)}",
                advise([one.text for one in in_split], covered),
                _concerns_with_units(touched, covered.outside, tokenizer),
            )
    rare = {unit: n for unit, n in train_counts.items() if n < RARE}
    if rare and built_from_train:
        with_rare = [
            one
            for one in utterances
            if one.split == "train" and not rare.keys().isdisjoint(units(one.text, tokenizer))
        ]
        yield Finding(
            NOTE if train_counts.total() < LARGE_SPLIT else WARN,
            "rare-units",
            f"Seen fewer than {RARE} times in train, too seldom to be learned: {_quoted(rare)}",
            (
                ""
                if tokenizer.inventory
                else f"tokenizer.min_count={RARE} makes them unknown; text.rules can replace them."
            ),
            _concerns_with_units(with_rare, rare, tokenizer),
        )


def _concerns_with_units(
    utterances: Sequence[CheckedUtterance], which: Mapping[str, int], tokenizer: Tokenizer
) -> list[Concern]:
    """Each utterance, with those of these units that are in its transcript."""
    return concerns(utterances, lambda one: " ".join(sorted(which.keys() & set(units(one.text, tokenizer)))))


def _quoted(counts: Mapping[str, int]) -> str:
    """ "'é' 12, 'ñ' 3"."""
    return most_common({repr(unit): n for unit, n in counts.items()}, shown=12)


def unusable_rows(rows: Sequence[Concern], sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Rows of a manifest that the corpus reader could not use, with its reason. sizes: the number of usable
    utterances of each split.
    """
    by_reason: dict[str, list[Concern]] = defaultdict(list)
    for row in rows:
        kind = _VALUES.sub("*", row.reason.partition(": ")[2] or row.reason)
        by_reason[kind].append(row)
    losses = Counter(row.split for row in rows)
    too_many = any(
        n > (TOLERATED * (sizes.get(split, 0) + n) if split == "train" else 0) for split, n in losses.items()
    )
    for concerned in by_reason.values():
        reasons = {row.reason.partition(": ")[2] or row.reason: None for row in concerned}
        reason = next(iter(reasons)) + " ..." * (len(reasons) > 1)
        yield Finding(
            FAIL if too_many else WARN,
            "unusable-row",
            f"Rows that cannot be used ({reason}), {counted(concerned)}",
            "Correct those rows, or drop them.",
            concerned,
        )
