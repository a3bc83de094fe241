"""Transcripts: against their recordings, against each other, and against the vocabulary."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median

from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding, Row, about, common, counted, lost
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.vocabulary import TOLERATED, Coverage, coverage

RARE = 5  # times in the training split; a model does not learn a sign from less
# units of a training split that has room for every letter there is; in a smaller one x and q are rare by
# nature
ENOUGH = 50_000
UNKNOWN = 0.005  # share of a split's units outside the vocabulary, above which its score has a floor
REPEATED = 0.05  # share of the training split that says again what the same speaker has said
OVERLAP = 0.01  # share of a split's sentences that the training split has too
FASTEST, SLOWEST = 30.0, 1.0  # characters a second; people speak 10 to 20
ALL_SPLITS = ("train", "dev", "test")


# What to say of a reason that `prepare.unfit` gives, by how it begins; empty transcripts are `contents`'s.
_UNFIT = {
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


def fit(rows: Sequence[Row], reasons: Sequence[str], level: str = "") -> Iterator[Finding]:
    """Utterances that a run leaves out for their length, or for what they say. reasons: of `prepare.unfit`,
    one a row.

    level: of those that are not left out, but scored without a hope.
    """
    for beginning, (fault, what, advice) in _UNFIT.items():
        gone = [i for i, why in enumerate(reasons) if why.startswith(beginning)]
        if gone:
            concerned = [about([rows[i]], reasons[i])[0] for i in gone]
            yield Finding(
                level or lost([rows[i] for i in gone], rows),
                fault,
                f"{what}, {counted(concerned)}",
                advice,
                concerned,
            )


def pace(rows: Sequence[Row]) -> Iterator[Finding]:
    """Characters a second that nobody speaks: often a transcript that has slipped by a row."""
    speeds = [
        (r, len(r.text.strip()) / r.clip.seconds)
        for r in rows
        if r.clip.seconds >= 1 and r.text.strip() and not r.clip.reason
    ]
    if not speeds or not SLOWEST * 3 < median(s for _, s in speeds) < FASTEST / 1.5:
        return  # another script, or units of another length
    of = {id(r): s for r, s in speeds}
    for fault, what, found in (
        (
            "too-much-text",
            f"More than {FASTEST:g} characters a second",
            [r for r, s in speeds if s > FASTEST],
        ),
        (
            "too-little-text",
            f"Less than {SLOWEST:g} character a second",
            [r for r, s in speeds if s < SLOWEST and r.clip.seconds >= 3],
        ),
    ):
        if found:
            yield Finding(
                WARN,
                fault,
                f"{what}, {counted(found)}",
                "Listen: does the transcript belong to the recording?",
                about(found, lambda r: f"{of[id(r)]:.1f} characters a second"),
            )


def contents(rows: Sequence[Row]) -> Iterator[Finding]:
    """Transcripts that are empty, that come again, or that two splits share; speakers that two splits
    share.
    """
    hollow = [r for r in rows if not r.utterance.text.strip()]
    emptied = [r for r in rows if r.utterance.text.strip() and not r.text.strip()]
    if hollow:
        yield Finding(
            lost(hollow, rows),
            "empty-transcript",
            f"Empty transcripts, {counted(hollow)}",
            "Drop those rows.",
            about(hollow, "empty transcript"),
        )
    if emptied:
        yield Finding(
            lost(emptied, rows),
            "emptied-transcript",
            f"Nothing left after the text rules, {counted(emptied)}",
            "Spell numbers and signs out, or choose another text=...",
            about(emptied, lambda r: repr(r.utterance.text)),
        )
    yield from _repeated(rows)
    yield from _shared(rows)


def _repeated(rows: Sequence[Row]) -> Iterator[Finding]:
    """What the same speaker says again. Many speakers reading one sentence is how corpora are made."""
    for split in ALL_SPLITS:
        mine = [r for r in rows if r.split == split and r.text.strip()]
        seen: dict[tuple[str | None, str], str] = {}
        again = [r for r in mine if seen.setdefault((r.utterance.speaker, r.text.strip()), r.id) != r.id]
        if again:
            first = {id(r): seen[r.utterance.speaker, r.text.strip()] for r in again}
            most, times = Counter(r.text.strip() for r in again).most_common(1)[0]
            level = WARN if len(again) > REPEATED * len(mine) and split == "train" else NOTE
            most = most if len(most) <= 40 else most[:37] + "..."
            whose = "by the same speaker " if mine[0].utterance.speaker else ""
            yield Finding(
                level,
                "duplicate-transcript",
                f"Said again {whose}('{most}': {times + 1} times), {counted(again)}",
                (
                    ""
                    if level == NOTE
                    else "Fine for digits and commands; else look for rows that stand there twice."
                ),
                [about([r], f"the same text as {first[id(r)]}")[0] for r in again],
            )


def _shared(rows: Sequence[Row]) -> Iterator[Finding]:
    trained = [r for r in rows if r.split == "train"]
    texts = {r.text.strip(): r.id for r in trained if r.text.strip()}
    speakers = {r.utterance.speaker for r in trained} - {None}
    for split in ALL_SPLITS[1:]:
        mine = [r for r in rows if r.split == split]
        known = [r for r in mine if r.text.strip() in texts]
        if known:
            yield Finding(
                WARN if len(known) > OVERLAP * len(mine) else NOTE,
                "sentence-overlap",
                f"{len(known):,} of {len(mine):,} sentences of {split} are in train too",
                "Fine where that is the task (commands, digits); else that score flatters: split by"
                " sentence.",
                about(known, lambda r: f"the sentence of {texts[r.text.strip()]}"),
            )
        heard = [r for r in mine if r.utterance.speaker in speakers]
        if heard:
            voices = len({r.utterance.speaker for r in heard})
            yield Finding(
                WARN,
                "speaker-overlap",
                f"{voices:,} of {len({r.utterance.speaker for r in mine}):,} speakers of {split} are in "
                "train too",
                "The score will not say how new voices fare: split by speaker.",
                about(heard, lambda r: f"speaker {r.utterance.speaker}"),
            )


# ------------------------------------------------------------------------------------------------------------
# the vocabulary


def units(text: str, tokenizer: Tokenizer) -> Iterable[str]:
    """What a transcript is made of: characters, or phones of the training inventory."""
    return tokenizer.target(text).split() if tokenizer.unit == "phone" else text.strip()


def vocabulary(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    made_of_train: bool,
    advice: Callable[[list[str], Coverage], str],
) -> Iterator[Finding]:
    """Units that the vocabulary lacks, and those it has seen too seldom.

    made_of_train: it was built from the training split. advice: what to do about units that it lacks of
    transcripts.
    """
    what = "phones" if tokenizer.unit == "phone" else "characters"
    covered: dict[str, Coverage] = {}
    for split in ALL_SPLITS:
        mine = [r for r in rows if r.split == split]
        covered[split] = found = coverage([r.text for r in mine], tokenizer)
        if found.outside:
            yield Finding(
                FAIL if found.share > UNKNOWN else WARN,
                "outside-vocabulary",
                f"{100 * found.share:.2f} % of the {what} of {split} are not in the vocabulary and cannot be"
                f" recognised: {_signs(found.outside)}",
                advice([r.text for r in mine], found),
                _with_units(
                    [r for r, n in zip(mine, found.unknown, strict=True) if n], found.outside, tokenizer
                ),
            )
    train = covered["train"].inside
    rare = {u: n for u, n in train.items() if n < RARE}
    if rare and made_of_train:
        concerned = [
            r for r in rows if r.split == "train" and not rare.keys().isdisjoint(units(r.text, tokenizer))
        ]
        yield Finding(
            NOTE if train.total() < ENOUGH else WARN,
            "rare-units",
            f"Seen fewer than {RARE} times in train, too seldom to be learned: {_signs(rare)}",
            (
                ""
                if tokenizer.inventory
                else f"tokenizer.min_count={RARE} makes them unknown; text.rules can replace them."
            ),
            _with_units(concerned, rare, tokenizer),
        )


def _with_units(
    rows: Sequence[Row], which: Mapping[str, int], tokenizer: Tokenizer
) -> list[tuple[str, str, str, str]]:
    return [about([r], " ".join(sorted(which.keys() & set(units(r.text, tokenizer)))))[0] for r in rows]


def _signs(counts: Mapping[str, int]) -> str:
    """ "'é' 12, 'ñ' 3"."""
    return common({repr(u): n for u, n in counts.items()}, shown=12)


def left_out(rows: Sequence[tuple[str, str, str, str]], sizes: Mapping[str, int]) -> Iterator[Finding]:
    """Rows that the corpus reader could not use. sizes: usable utterances of each split."""
    by_reason: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for row in rows:
        by_reason[row[3].partition(": ")[2] or row[3]].append(row)
    gone = Counter(row[0] for row in rows)
    bad = any(
        n > (TOLERATED * (sizes.get(split, 0) + n) if split == "train" else 0) for split, n in gone.items()
    )
    for reason, concerned in by_reason.items():
        yield Finding(
            FAIL if bad else WARN,
            "unusable-row",
            f"Rows that cannot be used ({reason}), {counted(concerned)}",
            "Correct those rows, or drop them.",
            concerned,
        )
