"""A transcript as OpenAI's API words it in JSON."""

from collections.abc import Sequence
from typing import Any

from asr_exp.inference.transcriber import Transcript
from asr_exp.inference.transcript_formats import cues


def words(transcript: Transcript, start: float = 0.0) -> list[dict[str, Any]]:
    """Words with times (seconds, from `start` on) and confidences."""
    return [
        {
            "word": word.text,
            "start": round(start + word.start, 3),
            "end": round(start + word.end, 3),
            "confidence": word.confidence,
        }
        for word in transcript.words
    ]


def verbose(transcript: Transcript, language: str, granularities: Sequence[str]) -> dict[str, Any]:
    """verbose_json: text, duration, segments (the cues of subtitles) or words or both."""
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": language,
        "duration": transcript.seconds,
        "text": transcript.text,
    }
    if "segment" in granularities:
        found["segments"] = [
            {"id": i, "start": cue.start, "end": cue.end, "text": cue.text.replace("\n", " ")}
            for i, cue in enumerate(cues(transcript))
        ]
    if "word" in granularities:
        found["words"] = words(transcript)
    return found
