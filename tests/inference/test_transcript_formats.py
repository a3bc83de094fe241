"""What is written of a transcript, read back by rules of the formats' own."""

import json
import re
from dataclasses import replace

import pytest

from asr_exp.decoding.alignment import Word
from asr_exp.decoding.decoders import Candidate
from asr_exp.inference.transcriber import Transcript
from asr_exp.inference.transcript_formats import FORMATS, cues, names_in_ctm

TEXT = (
    "in the beginning there was a very long sentence without so much as a comma which went on and on until"
    " nobody who had begun to read it could remember what it was about or why it had been written at all"
)
LONG = TEXT.split()


def said(
    words: list[str], gaps: dict[int, float] | None = None, each: float = 0.3, space: str = " "
) -> Transcript:
    """Words of `each` seconds, 0.1 s apart; gaps: longer pauses before the words of those numbers."""
    made, time = [], 0.5
    for number, word in enumerate(words):
        time += (gaps or {}).get(number, 0.1)
        made.append(Word(word, round(time, 3), round(time + each, 3), 0.9))
        time += each
    return Transcript(space.join(words), made, time + 1)


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def parsed_srt(text: str) -> list[tuple[float, float, str]]:
    """By the rules of SubRip: number, times with a comma, one or more lines, an empty line."""
    blocks = text.rstrip("\n").split("\n\n")
    found = []
    for number, block in enumerate(blocks, 1):
        first, times, *lines = block.split("\n")
        assert first == str(number) and lines
        start, end = re.fullmatch(r"(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})", times).groups()
        found.append((seconds(start), seconds(end), "\n".join(lines)))
    return found


def parsed_vtt(text: str) -> list[tuple[float, float, str]]:
    head, *blocks = text.rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.split("\n")
        start, end = re.fullmatch(r"(\d\d:\d\d:\d\d\.\d{3}) --> (\d\d:\d\d:\d\d\.\d{3})", times).groups()
        found.append((seconds(start), seconds(end), "\n".join(lines)))
    return found


@pytest.mark.parametrize(("style", "parse"), [("srt", parsed_srt), ("vtt", parsed_vtt)])
def test_subtitles_that_can_be_read(style, parse):
    transcript = said(LONG * 3, {7: 2.0, 20: 0.5, 60: 5.0})
    found = parse(FORMATS[style](transcript, "a.wav"))
    assert " ".join(text.replace("\n", " ") for *_, text in found) == transcript.text
    for start, end, text in found:
        assert 1 <= len(text.split("\n")) <= 2 and max(map(len, text.split("\n"))) <= 42
        assert 0 < end - start <= 7
    assert all(before[1] <= after[0] for before, after in zip(found, found[1:], strict=False))
    shown = [text.replace("\n", " ") for *_, text in found]
    assert shown[0] == " ".join(LONG[:7])  # a pause of two seconds ends a cue
    # a shorter one ends it where it has to end about there
    assert any(text.endswith(LONG[19]) for text in shown)


def test_the_lines_of_a_cue_are_about_equally_long():
    (cue,) = cues(said(LONG[:10], each=0.1))
    assert cue.text == "in the beginning there was a\nvery long sentence without"


def test_a_short_cue_stays_a_second_unless_another_comes():
    first, second = cues(Transcript("yes no", [Word("yes", 1.0, 1.1, 1), Word("no", 5.0, 5.2, 1)], 5.5))
    assert (first.start, first.end) == (1.0, 2.0) and (second.start, second.end) == (5.0, 5.5)
    close, _ = cues(Transcript("a b", [Word("a", 1.0, 1.02, 1), Word("b", 2.03, 2.2, 1)], 9))
    assert close.end == 2.0


def test_a_script_without_spaces_is_cut_between_characters():
    text = "今天天气很好我们去公园散步吧" * 10
    found = parsed_srt(FORMATS["srt"](said(list(text), each=0.15, space=""), "a"))
    assert "".join(shown.replace("\n", "") for *_, shown in found) == text
    assert (
        all(len(line) <= 42 for *_, shown in found for line in shown.split("\n"))
        and max(end - start for start, end, _ in found) <= 7
    )


def test_a_word_longer_than_a_line():
    (_, _, text), *_ = parsed_srt(FORMATS["srt"](said(["x" * 60, "y"]), "a"))
    assert max(map(len, text.split("\n"))) <= 42 and text.replace("\n", "").startswith("x" * 60)


def test_vtt_escapes_what_means_something_to_it():
    ((*_, text),) = parsed_vtt(FORMATS["vtt"](said(["<b>", "a&b", "-->"]), "a"))
    assert text == "&lt;b&gt; a&amp;b --&gt;"


def test_json_lines():
    transcript = said(["übung", "macht"])
    line = FORMATS["jsonl"](transcript, "b/ü.wav")
    assert line.endswith("\n") and "übung" in line and "\n" not in line[:-1]
    words = [
        {"text": "übung", "start": 0.6, "end": 0.9, "confidence": 0.9},
        {"text": "macht", "start": 1.0, "end": 1.3, "confidence": 0.9},
    ]
    assert json.loads(line) == {"file": "b/ü.wav", "seconds": 2.3, "text": "übung macht", "words": words}


def test_json_lines_with_what_else_it_may_be():
    others = [Candidate("a b", -1.23456), Candidate("a", -2.0)]
    row = json.loads(FORMATS["jsonl"](replace(said(["a", "b"]), nbest=others), "a.wav"))
    assert row["nbest"] == [{"text": "a b", "score": -1.2346}, {"text": "a", "score": -2.0}]


def test_ctm():
    """By the rules of sctk: six fields, the recording without spaces; times and durations in seconds."""
    rows = [row.split(" ") for row in FORMATS["ctm"](said(["a", "b"]), "my_talk").splitlines()]
    assert rows == [
        ["my_talk", "1", "0.600", "0.300", "a", "0.9000"],
        ["my_talk", "1", "1.000", "0.300", "b", "0.9000"],
    ]


def test_what_a_ctm_calls_recordings():
    found = names_in_ctm(["x/my talk.flac", "y/my talk.wav", "my_talk_2.wav", "-"])
    assert list(found.values()) == ["my_talk", "my_talk_2", "my_talk_2_2", "stdin"]


def test_hours():
    late = Transcript("late", [Word("late", 36061.9996, 36062.5, 1.0)], 36100)
    assert "10:01:02,000 --> 10:01:03,000" in FORMATS["srt"](late, "a")


@pytest.mark.parametrize("style", FORMATS)
def test_nothing_is_said(style):
    written = FORMATS[style](Transcript("", [], 3.0), "a.wav")
    want = {
        "text": "\n",
        "jsonl": '{"file": "a.wav", "seconds": 3.0, "text": "", "words": []}\n',
        "srt": "",
        "vtt": "WEBVTT\n",
        "ctm": "",
    }
    assert written == want[style]
