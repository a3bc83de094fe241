"""What is left out of which split, and why; what a split is once it is ready."""

import numpy as np
import pytest
import soundfile

from asr_exp.core.errors import UserError
from asr_exp.data import prepare as prepare_module
from asr_exp.data.corpora.base import Corpus, FileAudio, Rejected, Utterance, Utterances
from asr_exp.data.filtering import LengthLimits, rejection_reason
from asr_exp.data.prepare import AudioSettings, normalise, prepare_split
from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer

LIMITS = LengthLimits(
    min_seconds=0.1,
    max_seconds=2.0,
    max_eval_seconds=4.0,
    max_utterances=None,
    frames=lambda n: max(0, (n - 80) // 320),
)
LETTERS = Tokenizer.build(["abc d"])


class Folder:
    """Makes utterances with a file each."""

    def __init__(self, folder, tone):
        self.folder = folder
        self.tone = tone
        self.rows = []

    def add(self, text="abc", seconds=1.0, samples=None):
        path = self.folder / f"{len(self.rows)}.wav"
        soundfile.write(path, self.tone(seconds) if samples is None else samples, 16000)
        self.rows.append(Utterance(f"id{len(self.rows)}", FileAudio(str(path)), text, "s1"))
        return self.rows[-1]


@pytest.fixture
def folder(tmp_path, tone):
    return Folder(tmp_path, tone)


@pytest.fixture
def prepare(folder, cache):
    def run(name="train", rejected=(), tokenizer=LETTERS, rows=None, **limits):
        rows = Utterances(folder.rows if rows is None else rows)
        allowed = LengthLimits(**{**vars(LIMITS), **limits})
        corpus = Corpus({name: rows}, {name: list(rejected)})
        return prepare_split(name, corpus, tokenizer, allowed, AudioSettings(cache, 16000))

    return run


def references(split):
    return [split.reference(i) for i in range(len(split))]


# The labels that 11 frames have room for are 11, or 6 where all are the same: a blank goes between any two.
ELEVEN = (400 + 320 * 10) / 16000
FRAME, LONG = "too short: 0.020 s is less than one frame", "is more than dataset.max_seconds=2"
MANY = "labels longer than frames: 12 frames needed"
KINDS = {  # text, seconds, samples, the reason in training, the reason in scoring
    "good": ("abc", 1.0, None, "", ""),
    "less than a frame": ("abc", 0.02, None, FRAME, FRAME),
    "short": ("a", 0.05, None, "too short: 0.050 s is less than dataset.min_seconds=0.1", ""),
    "long": ("abc", 2.5, None, f"too long: 2.5 s {LONG}", ""),
    "very long": (
        "abc",
        4.5,
        None,
        f"too long: 4.5 s {LONG}",
        "too long: 4.5 s is more than dataset.max_eval_seconds=4",
    ),
    "just as long as may be": ("abc", 2.0, None, "", ""),
    "no text": ("", 1.0, None, "empty transcript", "empty transcript"),
    "spaces": ("   ", 1.0, None, "empty transcript", "empty transcript"),
    "unknown characters": ("xyz !", 1.0, None, "no character of the transcript is in the vocabulary", ""),
    "partly unknown": ("axyz", 1.0, None, "", ""),
    "as many labels as frames": ("abcabcabcab", ELEVEN, None, "", ""),
    "a label too many": ("abcabcabcabc", ELEVEN, None, f"{MANY} for 12 labels, the audio gives 11", ""),
    "repeats that fit": ("aaaaaa", ELEVEN, None, "", ""),
    "repeats that do not": ("aaaaaab", ELEVEN, None, f"{MANY} for 7 labels", ""),
    "silent": ("abc", 1.0, np.zeros(16000), "silent", ""),
    "nearly silent": ("abc", 1.0, np.eye(1, 16000)[0] / 32768, "", ""),
}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_each_reason_in_training_and_in_scoring(folder, prepare, split):
    for text, seconds, samples, *_ in KINDS.values():
        folder.add(text, seconds, samples)
    done = prepare(split)
    reasons = {one.id: one.reason for one in done.rejected}
    for row, (kind, (*_, training, scoring)) in zip(folder.rows, KINDS.items(), strict=True):
        expected, found = training if split == "train" else scoring, reasons.get(row.id, "")
        assert found.startswith(expected) and bool(found) == bool(expected), f"{kind}: {found!r}"
    assert [u.id for u in done.utterances] == [r.id for r in folder.rows if r.id not in reasons]
    assert done.coverage == pytest.approx(len(done) / len(KINDS))


@pytest.mark.parametrize("split", ["train", "dev"])
def test_what_is_not_looked_at_one_by_one_is_fit(folder, prepare, split, monkeypatch):
    """Rows of every kind, most at the edge of being fit: the quick look passes none that the close look
    leaves out.
    """
    rng = np.random.default_rng(0)
    folder.add(samples=folder.tone(4.5))
    for _ in range(600):
        frames = int(rng.integers(0, 14))
        text = "".join(rng.choice(list("abbc  x"), size=max(0, frames + int(rng.integers(-6, 3)))))
        samples = max(1, 80 + 320 * frames + int(rng.integers(-2, 322)))
        folder.rows.append(
            Utterance(
                f"r{len(folder.rows)}", FileAudio(folder.rows[0].audio.path, 0.0, samples / 16000), text
            )
        )
    quick = prepare(split)
    monkeypatch.setattr(prepare_module, "needs_check", lambda name, utterances, *_: range(len(utterances)))
    close = prepare(split)
    assert (
        quick.rejected == close.rejected and quick.utterances == close.utterances and 100 < len(quick) < 500
    )


def test_every_member_of_a_split_speaks_of_the_same_utterance(folder, prepare):
    texts = ["abc", "", "d a", "c", "bb ?"]
    for number, text in enumerate(texts):
        folder.add(text, 0.2 + number / 10)
    earlier = Rejected("id9", "x.wav", "no such row")
    done = prepare("dev", rejected=[earlier])
    assert [u.text for u in done.utterances] == references(done) == ["abc", "d a", "c", "bb ?"]
    assert done.seconds.tolist() == pytest.approx([0.2, 0.4, 0.5, 0.6])
    assert [done.labels(i).tolist() for i in range(4)] == [[0, 1, 2], [3, 4, 0], [2], [1, 1, 4, 5]]
    for number, row in enumerate(done.utterances):
        assert np.array_equal(done.samples(number), soundfile.read(row.audio.path, dtype="int16")[0])
    assert done.rejected[0] == earlier and (done.rejected[1].id, done.rejected[1].file) == (
        "id1",
        folder.rows[1].audio.path,
    )
    assert done.coverage == pytest.approx(4 / 6) and done.hours == pytest.approx(1.7 / 3600)


def test_phones_train_in_one_inventory_and_are_scored_in_another(folder, prepare):
    folder.add("h# q ao zh h#")
    done = prepare(tokenizer=Tokenizer.build([], "phone", inventory="timit48", score_inventory="timit39"))
    assert references(done) == ["sil aa sh sil"]
    tokenizer = Tokenizer.build([], "phone", inventory="timit48")
    assert [tokenizer.tokens[i].strip() for i in done.labels(0)] == ["sil", "ao", "zh", "sil"]


def test_broken_audio_is_named_and_the_rest_goes_on(folder, prepare):
    folder.add()
    folder.rows.append(Utterance("gone", FileAudio(str(folder.folder / "gone.wav")), "abc"))
    done = prepare()
    assert len(done) == 1
    assert done.rejected == [Rejected("gone", str(folder.folder / "gone.wav"), "no such file")]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_of_which_nothing_can_be_used_is_an_error_that_says_why(folder, prepare, split):
    folder.add("")
    folder.add(" ")
    with pytest.raises(
        UserError, match=rf"dataset\.{split} can be used: 2 left out. The first, .*0\.wav: empty transcript"
    ):
        prepare(split)
    with pytest.raises(UserError, match=rf"dataset\.{split} can be used: 0 left out"):
        prepare(split, rows=[])


def test_max_utterances_takes_the_first(folder, prepare):
    for text in ("a", "", "b", "c"):
        folder.add(text)
    done = prepare(max_utterances=3)
    assert (references(done), len(done.rejected), done.coverage) == (["a", "b"], 1, pytest.approx(2 / 3))
    assert references(prepare(max_utterances=99)) == ["a", "b", "c"]


def test_the_fingerprint_changes_with_what_is_learned_from_and_with_nothing_else(folder, prepare):
    folder.add("abc", 0.5)
    folder.add("d", 0.6)
    first = prepare().fingerprint()
    assert prepare().fingerprint() == first
    texts = [Utterance(u.id, u.audio, u.text + "a", u.speaker) for u in folder.rows]
    names = [Utterance(u.id + "x", u.audio, u.text, u.speaker) for u in folder.rows]
    others = [
        prepare(rows=texts),
        prepare(rows=names),
        prepare(rows=folder.rows[::-1]),
        prepare(rows=folder.rows[:1]),
    ]
    soundfile.write(folder.rows[0].audio.path, folder.tone(0.7), 16000)
    others.append(prepare())
    assert len({first, *(one.fingerprint() for one in others)}) == 6
    parted = [
        [Utterance(u.id, u.audio, text, u.speaker) for u, text in zip(folder.rows, texts, strict=True)]
        for texts in (("ab", "c"), ("a", "bc"))  # the same labels in a row
    ]
    assert len({prepare(rows=rows).fingerprint() for rows in parted}) == 2


def test_the_hash_of_the_audio_is_of_the_recordings_that_are_used(folder, prepare):
    for seconds in (0.5, 0.6, 0.7):
        folder.add("abc", seconds)
    first = prepare().audio_hash
    texts = [Utterance(u.id, u.audio, "d", u.speaker) for u in folder.rows]
    assert prepare().audio_hash == prepare(rows=texts).audio_hash == first
    some = [
        [Utterance(u.id, u.audio, "" if u is left else "abc", u.speaker) for u in folder.rows]
        for left in folder.rows[:2]
    ]
    others = [prepare(rows=rows).audio_hash for rows in (*some, folder.rows[::-1])]
    soundfile.write(folder.rows[0].audio.path, folder.tone(0.8), 16000)
    others.append(prepare().audio_hash)
    assert len({first, *others}) == 5


@pytest.mark.parametrize(
    ("split", "samples", "reason"),
    [
        ("train", 32000, ""),
        ("train", 32001, "too long"),
        ("dev", 64000, ""),
        ("dev", 64001, "too long"),
        ("train", 1600, ""),
        ("train", 1599, "too short"),
        ("dev", 1599, ""),
    ],
)
def test_lengths_at_the_very_limits(split, samples, reason):
    """Of 0.1 s to 2 s for training, and of 4 s at the most for scoring."""
    found = rejection_reason(split, samples, 16000, "a", LETTERS, LIMITS)
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_the_ids_of_a_split_count_in_those_left_out_in_any_order(folder, prepare):
    folder.add("abc")
    folder.add("")
    ids = prepare("test").all_ids
    assert prepare("test", rows=folder.rows[::-1]).all_ids == ids  # a protocol is of the set
    assert prepare("test", rows=folder.rows[:1]).all_ids != ids
    assert (
        prepare("test", rows=folder.rows[:1], rejected=[Rejected(folder.rows[1].id, "", "")]).all_ids == ids
    )


def test_text_rules_apply_to_every_split():
    corpus = Corpus({s: [Utterance("1", FileAudio("a.wav"), f"{s} ÄB")] for s in ("train", "dev", "test")})
    texts = {
        name: list(rows.texts())
        for name, rows in normalise(corpus, build_rules(["lower"], None)).splits.items()
    }
    assert texts == {"train": ["train äb"], "dev": ["dev äb"], "test": ["test äb"]}
    assert next(corpus.splits["dev"].texts()) == "dev ÄB"
