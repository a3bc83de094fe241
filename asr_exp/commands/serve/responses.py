"""Transcripts as JSON: the form of OpenAI's API, with a confidence for each word."""

from collections.abc import Sequence
from typing import Any

from asr_exp.inference.transcriber import Transcript
from asr_exp.inference.transcript_formats import cues


def words_as_json(transcript: Transcript, offset: float = 0.0) -> list[dict[str, Any]]:
    """The words with their start and end in seconds, `offset` added, and their confidence (0 to 1)."""
    return [
        {
            "word": word.text,
            "start": round(offset + word.start, 3),
            "end": round(offset + word.end, 3),
            "confidence": word.confidence,
        }
        for word in transcript.words
    ]


def verbose_json(transcript: Transcript, language: str, granularities: Sequence[str]) -> dict[str, Any]:
    """OpenAI's verbose_json: text, language, duration in seconds, and times.

    granularities: "segment" adds the segments (one for each cue that subtitles would have), "word" the words.
    """
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": transcript.seconds,
        "text": transcript.text,
    }
    if "segment" in granularities:
        body["segments"] = [
            {"id": i, "start": cue.start, "end": cue.end, "text": cue.text.replace("\n", " ")}
            for i, cue in enumerate(cues(transcript))
        ]
    if "word" in granularities:
        body["words"] = words_as_json(transcript)
    return body
