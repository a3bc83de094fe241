"""File formats of transcripts: plain text, JSON Lines, SubRip (SRT), WebVTT, NIST's CTM."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath

from asr_exp.decoding.alignment import Word
from asr_exp.inference.alignment_formats import ctm, unused
from asr_exp.inference.transcriber import Transcript

# Limits of a cue of subtitles that the guides of broadcasters agree on.
LINE_WIDTH = 42  # characters
MAX_LINES = 2
MAX_SECONDS = 7.0  # on screen
MIN_SECONDS = 1.0
MIN_PAUSE = 1.0  # seconds without words that end a cue
LINGER = 0.3  # seconds that a cue stays after its last word


@dataclass(frozen=True)
class Cue:
    """Words that are shown together from `start` to `end`, in seconds. text: one line or two."""

    start: float
    end: float
    text: str
    words: Sequence[Word]


def cues(transcript: Transcript) -> list[Cue]:
    """The cues of a transcript: a new one begins after a pause, and where the text would be too long or on
    screen for too long.
    """
    # in a script without spaces each character is a word
    space = " " if " " in transcript.text else ""
    groups = [part for phrase in _between_pauses(transcript.words) for part in _fitting(phrase, space)]
    ends = [
        *(group[0].start for group in groups[1:]),
        max([transcript.seconds, *(word.end for word in transcript.words[-1:])]),
    ]
    result = []
    for group, limit in zip(groups, ends, strict=False):
        first, last = group[0].start, group[-1].end
        end = max(last, min(max(last + LINGER, first + MIN_SECONDS), limit))
        result.append(Cue(first, round(end, 3), "\n".join(_lines(_text(group, space))), group))
    return result


def _between_pauses(words: Sequence[Word]) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for before, word in zip([None, *words], words, strict=False):
        if before is None or word.start - before.end >= MIN_PAUSE:
            groups.append([])
        groups[-1].append(word)
    return groups


def _fitting(words: list[Word], space: str) -> list[list[Word]]:
    """Runs of words that each fit into a cue. A run that has to end before the last word ends at the longest
    pause in its second half.
    """
    runs = []
    while words:
        count = 1
        while count < len(words) and _fits(words[: count + 1], space):
            count += 1
        if count < len(words):
            places = range(-(-count // 2), count + 1)
            count = max(places, key=lambda n: (round(words[n].start - words[n - 1].end, 2), n))
        runs.append(words[:count])
        words = words[count:]
    return runs


def _fits(words: Sequence[Word], space: str) -> bool:
    return (
        words[-1].end - words[0].start <= MAX_SECONDS - LINGER
        and len(_lines(_text(words, space))) <= MAX_LINES
    )


def _text(words: Sequence[Word], space: str) -> str:
    return space.join(word.text for word in words)


def _lines(text: str) -> list[str]:
    """The text in as few lines as possible; two lines are about equally long."""
    lines = textwrap.wrap(text, LINE_WIDTH, break_on_hyphens=False)
    if len(lines) == 2:
        for width in range(-(-len(text) // 2), LINE_WIDTH):
            even = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
            if len(even) == 2 and max(map(len, even)) <= LINE_WIDTH:
                return even
    return lines


# ------------------------------------------------------------------------------------------------------------
# the formats: (transcript, name of the recording) -> text of the file


def _as_text(transcript: Transcript, name: str) -> str:
    return transcript.text + "\n"


def _as_json(transcript: Transcript, name: str) -> str:
    words = [asdict(word) for word in transcript.words]
    row = {"file": name, "seconds": round(transcript.seconds, 3), "text": transcript.text, "words": words}
    if transcript.nbest:
        row["nbest"] = [{"text": one.text, "score": round(one.score, 4)} for one in transcript.nbest]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _as_srt(transcript: Transcript, name: str) -> str:
    return "\n".join(
        f"{number}\n{_timed(cue, ',')}\n{cue.text}\n" for number, cue in enumerate(cues(transcript), 1)
    )


def _as_vtt(transcript: Transcript, name: str) -> str:
    return "\n".join(
        ["WEBVTT\n", *(f"{_timed(cue, '.')}\n{_escaped(cue.text)}\n" for cue in cues(transcript))]
    )


def _as_ctm(transcript: Transcript, name: str) -> str:
    return ctm(name, transcript.words)


def names_in_ctm(recordings: Sequence[str]) -> dict[str, str]:
    """The name of each recording in a CTM: its file name without folder and ending, with a number where two
    are the same; `stdin` for `-`.
    """
    taken: set[str] = set()
    stems = ("stdin" if one == "-" else "_".join(PurePath(one).stem.split()) or "-" for one in recordings)
    return {one: unused(stem, taken) for one, stem in zip(recordings, stems, strict=True)}


def _timed(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


FORMATS: dict[str, Callable[[Transcript, str], str]] = {
    "text": _as_text, "jsonl": _as_json, "srt": _as_srt, "vtt": _as_vtt, "ctm": _as_ctm,
}  # fmt: skip
ENDINGS = {"text": ".txt", "jsonl": ".jsonl", "srt": ".srt", "vtt": ".vtt", "ctm": ".ctm"}
ONE_RECORDING = ("srt", "vtt")  # formats that have no place for the name of a recording
