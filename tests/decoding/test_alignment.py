"""Where labels stand: against peaks set by hand, against a dynamic programme of the test's own, and the files
that come of it.
"""

import json

import numpy as np
import pytest
import torch
from textgrids import intervals

from asr_exp.commands.align.timit import TimitTimes, beside, distances, pairs, read_times
from asr_exp.commands.align.transcript import align_transcript, make_transcript
from asr_exp.data.text import build_rules
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding import alignment
from asr_exp.decoding.alignment import Span, Word, align_groups, align_labels, best_path, word_of
from asr_exp.inference.alignment_formats import AlignmentWriter, ctm, textgrid

STANDARD = ["nfc", "remove_invisible", "lower", "remove_punctuation", "nfc", "collapse_whitespace"]
BLANK = 0


def peaks(frames: int, labels: int, at: dict[int, int], sure: float = 0.9) -> torch.Tensor:
    """Log probabilities, (frames, labels): the blank everywhere, but where `at` names a label for a frame."""
    probabilities = torch.full((frames, labels), (1 - sure) / (labels - 1))
    for frame in range(frames):
        probabilities[frame, at.get(frame, BLANK)] = sure
    return probabilities.log()


def viterbi(log_probs: np.ndarray, labels: list[int], blank: int) -> list[tuple[int, int, int]]:
    """The best path through the blanks and labels, state by state (Graves et al. 2006) -> (label, start, end)
    of each run of a label.
    """
    states = [blank]
    for label in labels:
        states += [label, blank]
    frames = len(log_probs)
    best, back = np.full((frames, len(states)), -np.inf), np.zeros((frames, len(states)), dtype=int)
    best[0, :2] = log_probs[0, states[:2]]
    for t in range(1, frames):
        for s, label in enumerate(states):
            sources = [s, s - 1] if s else [s]
            if s >= 2 and label != blank and label != states[s - 2]:
                sources.append(s - 2)
            back[t, s] = max(sources, key=lambda one: best[t - 1, one])  # noqa: B023
            best[t, s] = best[t - 1, back[t, s]] + log_probs[t, label]
    state = max((len(states) - 1, len(states) - 2), key=lambda one: best[-1, one])
    path = [state]
    for t in range(frames - 1, 0, -1):
        path.append(back[t, path[-1]])
    path.reverse()
    runs = [s for i, s in enumerate(path) if s % 2 and (i == 0 or path[i - 1] != s)]
    return [(states[s], path.index(s), path.index(s) + path.count(s)) for s in runs]


def test_peaks_set_by_hand():
    log_probs = peaks(12, 4, {2: 1, 3: 1, 6: 2, 8: 2, 11: 3})
    spans = align_labels(log_probs, [1, 2, 2, 3], BLANK)
    assert [(one.label, one.start, one.end) for one in spans] == [
        (1, 2, 4),
        (2, 6, 7),
        (2, 8, 9),
        (3, 11, 12),
    ]
    assert [one.score for one in spans] == pytest.approx([0.9] * 4)


@pytest.mark.parametrize("seed", range(6))
def test_against_a_dynamic_programme_of_our_own(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 5, size=rng.integers(1, 9)).tolist()
    log_probs = torch.from_numpy(rng.standard_normal((25, 6)) * 2).float().log_softmax(-1)
    spans = align_labels(log_probs, labels, 5 * (seed % 2))  # the blank first, and last
    assert [(one.label, one.start, one.end) for one in spans] == viterbi(
        log_probs.numpy().astype(float), labels, 5 * (seed % 2)
    )
    for one in spans:
        assert one.score == pytest.approx(
            float(log_probs[one.start : one.end, one.label].exp().mean()), rel=1e-5
        )


def test_what_cannot_be_aligned(monkeypatch):
    with pytest.raises(ValueError, match="3 labels need 4 frames, and there are 3"):
        align_labels(peaks(3, 3, {}), [1, 1, 2], BLANK)
    monkeypatch.setattr(alignment, "MAX_CELLS", 100)
    with pytest.raises(ValueError, match="cut it into segments"):
        align_labels(peaks(40, 3, {}), [1, 2], BLANK)
    assert align_labels(peaks(3, 3, {}), [], BLANK) == []


def test_labels_that_need_every_frame_there_is():
    spans = align_labels(peaks(4, 3, {0: 1, 2: 1, 3: 2}), [1, 1, 2], BLANK)
    assert [(one.label, one.start, one.end) for one in spans] == [(1, 0, 1), (1, 2, 3), (2, 3, 4)]


def test_the_best_path_by_hand():
    labels = torch.tensor([BLANK, 1, 1, BLANK, 1, 2, 2, 2])
    scores = torch.tensor([0.9, 0.5, 0.7, 0.8, 0.3, 0.2, 0.3, 0.7])
    expected = [(1, 1, 3, 0.6), (1, 4, 5, 0.3), (2, 5, 8, 0.4)]
    found = best_path(labels, scores, BLANK)
    assert [(one.label, one.start, one.end, pytest.approx(one.score)) for one in found] == expected
    assert best_path(labels[:1], scores[:1], BLANK) == best_path(labels[:0], scores[:0], BLANK) == []


def test_a_word_of_its_spans_by_hand():
    """Two frames of 0.9 and one of 0.3 are 0.7 in the mean; the blank between them is none of the word's."""
    word = word_of([Span(1, 10, 12, 0.9), Span(2, 15, 16, 0.3)], "ab", 0.02)
    assert word == Word("ab", 0.2, 0.32, 0.7)


def test_a_group_without_labels_takes_what_its_neighbours_leave():
    log_probs = peaks(12, 4, {1: 1, 5: 3, 6: 3, 7: 3, 10: 2})
    first, anything, last = align_groups(log_probs, [[1], [], [2]], BLANK)
    assert first == [Span(1, 1, 2, pytest.approx(0.9))] and last == [Span(2, 10, 11, pytest.approx(0.9))]
    ((label, start, end, score),) = [(one.label, one.start, one.end, one.score) for one in anything]
    assert label == 4 and score == 0.0 and 2 <= start <= 5 and 8 <= end <= 10


# ------------------------------------------------------------------------------------------------------------
# transcripts


def characters() -> Tokenizer:
    return Tokenizer.build(["abcdefghijklmnopqrstuvwxyz' "])


def test_words_come_back_as_they_are_written():
    script = make_transcript(
        "Well-known, said O\u2019Brien \u2014 twice.", build_rules(STANDARD, "en"), characters()
    )
    assert script.texts == ["Well-known,", "said", "O\u2019Brien", "twice."] and script.silent == ["\u2014"]
    assert script.as_written and script.of_words and script.unknown == []
    assert ["".join(characters().tokens[i] for i in labels) for labels in script.labels] == [
        "well|known",
        "said",
        "o'brien",
        "twice",
    ]


def test_words_that_cannot_be_told_apart_are_those_of_the_rules():
    script = make_transcript(
        "At Ten Past Two", build_rules(["lower", {"replace": {"ten past": "tenpast"}}], "en"), characters()
    )
    assert script.texts == ["at", "tenpast", "two"] and not script.as_written and script.of_words


def test_units_that_the_vocabulary_lacks():
    tokenizer = characters()
    script = make_transcript("caf\u00e9 42 then 7b", build_rules(STANDARD, "en"), tokenizer)
    assert script.texts == ["caf\u00e9", "42", "then", "7b"] and script.unknown == ["\u00e9", "4", "2", "7"]
    assert [len(labels) for labels in script.labels] == [3, 0, 4, 1]
    labels = (
        script.labels[0]
        + [tokenizer.ids["|"]] * 2
        + script.labels[2]
        + [tokenizer.ids["|"]]
        + script.labels[3]
    )
    at = {3 * i: label for i, label in enumerate(labels[:4])} | {
        20 + 3 * i: label for i, label in enumerate(labels[4:])
    }
    log_probs = peaks(45, len(tokenizer), {}).roll(tokenizer.blank, dims=1)
    for frame, label in at.items():
        log_probs[frame] = log_probs[frame].roll(label - tokenizer.blank)
    found = align_transcript(log_probs, script, tokenizer, 0.02)
    assert [one.text for one in found.words] == script.texts and "".join(
        one.text for one in found.units
    ) == "cafthenb"
    assert [one.confidence for one in found.words] == pytest.approx(
        [0.9, 0.0, 0.9, 0.9]
    ) and found.confidence == pytest.approx(0.9)
    assert (found.words[0].start, found.words[0].end) == (0.0, 0.14)
    assert (
        found.words[1].start >= 0.2
        and found.words[1].end <= 0.4
        and found.words[2].start == pytest.approx(0.46)
    )
    with pytest.raises(ValueError, match="the vocabulary has no unit of its transcript"):
        align_transcript(log_probs, make_transcript("42", build_rules([], None), tokenizer), tokenizer, 0.02)


def test_phones_given_as_phones_are_no_words():
    tokenizer = Tokenizer.build([], "phone", "timit48", "timit39")
    script = make_transcript("h# sh iy q hv", build_rules(["collapse_whitespace"], "en"), tokenizer)
    assert (
        script.texts == ["h#", "sh", "iy", "hv"]
        and script.silent == ["q"]
        and not script.of_words
        and not script.unknown
    )
    log_probs = torch.randn(20, len(tokenizer)).log_softmax(-1)
    found = align_transcript(log_probs, script, tokenizer, 0.02)
    assert found.words == [] and [one.text for one in found.units] == ["sil", "sh", "iy", "hh"]


def test_words_made_phones_by_a_rule_stay_words(monkeypatch):
    from asr_exp.data.text.registry import RULES, RegisteredRule

    phones = {"two": "t uw", "a": "ah"}
    monkeypatch.setitem(
        RULES._parts,
        "say",
        RegisteredRule(lambda argument, language: lambda t: " ".join(phones[w] for w in t.split())),
    )
    tokenizer = Tokenizer.build(["t uw ah"], "phone")
    script = make_transcript("a two a", build_rules(["say"], None), tokenizer)
    assert (
        script.texts == ["a", "two", "a"]
        and script.of_words
        and [len(labels) for labels in script.labels] == [1, 2, 1]
    )


# ------------------------------------------------------------------------------------------------------------
# files


WORDS = [Word("she", 0.1, 0.3, 0.9), Word('"had"', 0.3, 0.5, 0.5), Word("y\u00e9", 0.62, 0.9, 1.0)]


def test_a_textgrid_covers_the_recording():
    text = textgrid({"words": WORDS, "characters": []}, 1.00006)
    assert text.startswith(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1.00006\ntiers?'
        " <exists>\nsize = 2\n"
    )
    found = intervals(text, "words")
    assert found == [
        (0, 0.1, ""),
        (0.1, 0.3, "she"),
        (0.3, 0.5, '"had"'),
        (0.5, 0.62, ""),
        (0.62, 0.9, "y\u00e9"),
        (0.9, 1.00006, ""),
    ]
    assert intervals(text, "characters") == [(0, 1.00006, "")]


def test_lines_of_a_ctm():
    assert (
        ctm("my file", WORDS[:2]) == 'my_file 1 0.100 0.200 she 0.9000\nmy_file 1 0.300 0.200 "had" 0.5000\n'
    )


def test_files_of_utterances_of_one_name(tmp_path):
    for _ in range(2):  # what is written again is not added to
        sheets = AlignmentWriter(tmp_path, ("textgrid", "ctm", "json"))
        for name in ("dir/a", "dir/a.WAV", "../b"):
            sheets.write(name, {"words": WORDS, "characters": WORDS[:1]}, 1.0, {"id": name})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "b.TextGrid",
        "b.json",
        "characters.ctm",
        "dir_a.TextGrid",
        "dir_a.json",
        "dir_a_2.TextGrid",
        "dir_a_2.json",
        "words.ctm",
    ]
    assert (tmp_path / "words.ctm").read_text().count("she") == 3
    said = json.loads((tmp_path / "dir_a.json").read_text())
    assert said["id"] == "dir/a" and said["words"][2] == {
        "text": "y\u00e9",
        "start": 0.62,
        "end": 0.9,
        "confidence": 1.0,
    }


def test_alignment_json_is_no_recordings(tmp_path):
    assert (
        AlignmentWriter(tmp_path, ("json",)).write("alignment.flac", {"words": WORDS}, 1.0, {})
        == "alignment_2"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["alignment_2.json"]


# ------------------------------------------------------------------------------------------------------------
# TIMIT's times


def test_times_and_distances_by_hand(tmp_path):
    (tmp_path / "SX1.WRD").write_text("1600 4800 she\n4800 8000 had\n8000 9600 uh\n9600 14400 ye\n")
    assert read_times(tmp_path / "SX1.WRD")[0] == ("she", 0.1, 0.3)
    assert (
        beside(tmp_path / "SX1.WAV", ".wrd")
        == beside(tmp_path / "SX1.WAV.wav", ".wrd")
        == tmp_path / "SX1.WRD"
    )
    assert beside(tmp_path / "SX2.WAV", ".wrd") is None
    words = [Word("She", 0.13, 0.28, 1.0), Word("had,", 0.29, 0.5, 1.0), Word("ye.", 0.68, 0.84, 1.0)]
    timit = TimitTimes()
    timit.add(str(tmp_path / "SX1.WAV"), words, [], None)
    found = (timit.summary() or {})["words"]
    assert (found["paired"], found["of"]) == (3, 4)  # starts are off by 30, -10, 80 ms, ends by -20, 0, -60
    assert found["start"] == {
        "mean_absolute_ms": 40.0,
        "median_absolute_ms": 30.0,
        "within_20_ms": 0.3333,
        "within_50_ms": 0.6667,
        "within_100_ms": 1.0,
        "offset_ms": 30.0,
        "without_offset_ms": 30.0,
    }
    assert found["end"]["mean_absolute_ms"] == 26.67 and found["end"]["offset_ms"] == -20.0


def test_phones_are_compared_as_the_model_has_them(tmp_path):
    (tmp_path / "a.PHN").write_text("0 1600 h#\n1600 3200 sh\n3200 4000 q\n4000 4800 hv\n4800 6400 h#\n")
    phones = [
        Word("sil", 0.0, 0.02, 1.0),
        Word("sh", 0.1, 0.2, 1.0),
        Word("hh", 0.25, 0.3, 1.0),
        Word("sil", 0.3, 0.32, 1.0),
    ]
    timit = TimitTimes()
    timit.add(str(tmp_path / "a.wav"), [], phones, "timit48")
    found = (timit.summary() or {})["phones"]
    assert (found["paired"], found["of"], found["start"]["mean_absolute_ms"]) == (2, 2, 0.0)


def test_only_the_same_words_are_paired():
    times = [("well", 0.0, 1.0), ("known", 1.0, 2.0), ("man", 2.0, 3.0)]
    found = pairs([Word("Well-known", 0.0, 2.0, 1.0), Word("man", 2.5, 3.0, 1.0)], times, str.casefold)
    assert [one.aligned.text for one in found] == ["man"] and distances(found)["start"]["offset_ms"] == 500.0
