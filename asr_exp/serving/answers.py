"""A transcript in the forms that OpenAI's API gives one."""

from collections.abc import Iterator, Sequence
from typing import Any

from asr_exp.alignment import Word
from asr_exp.transcriber import Transcript

NAMES = ("json", "text", "srt", "vtt", "verbose_json")
LONGEST_CUE, WIDEST_CUE, PAUSE = 7.0, 80, 0.6  # seconds, characters, seconds between words that end a cue


def words(transcript: Transcript, start: float = 0.0) -> list[dict[str, Any]]:
    """Words with times (seconds, from `start` on) and confidences."""
    return [{"word": word.text, "start": round(start + word.start, 3), "end": round(start + word.end, 3), "confidence": word.confidence}
            for word in transcript.words]


def cues(transcript: Transcript) -> list[tuple[float, float, str]]:
    """(start, end, text) of parts short enough to be read at once; the whole where the words have no times."""
    if not transcript.words:
        return [(0.0, transcript.seconds, transcript.text)] if transcript.text else []
    return [(part[0].start, part[-1].end, " ".join(word.text for word in part)) for part in _parts(transcript.words)]


def verbose(transcript: Transcript, language: str, granularities: Sequence[str]) -> dict[str, Any]:
    """verbose_json: text, duration, segments or words or both."""
    found: dict[str, Any] = {"task": "transcribe", "language": language, "duration": transcript.seconds, "text": transcript.text}
    if "segment" in granularities:
        found["segments"] = [{"id": i, "start": start, "end": end, "text": text} for i, (start, end, text) in enumerate(cues(transcript))]
    if "word" in granularities:
        found["words"] = words(transcript)
    return found


def srt(transcript: Transcript) -> str:
    """SubRip subtitles."""
    lines = [f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n" for i, (start, end, text) in enumerate(cues(transcript), 1)]
    return "".join(lines)


def vtt(transcript: Transcript) -> str:
    """WebVTT subtitles."""
    return "WEBVTT\n\n" + "".join(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n\n" for start, end, text in cues(transcript))


def _parts(spoken: Sequence[Word]) -> Iterator[list[Word]]:
    part = [spoken[0]]
    for word in spoken[1:]:
        wide = len(" ".join(one.text for one in (*part, word))) > WIDEST_CUE
        if wide or word.end - part[0].start > LONGEST_CUE or word.start - part[-1].end > PAUSE:
            yield part
            part = []
        part.append(word)
    yield part


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 3600000:02}:{milliseconds // 60000 % 60:02}:{milliseconds // 1000 % 60:02}{point}{milliseconds % 1000:03}"
