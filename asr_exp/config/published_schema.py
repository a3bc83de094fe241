"""The sections of keys that say what a score is to be set beside."""

from dataclasses import dataclass
from typing import Any

from asr_exp.config.key import key


@dataclass
class Protocol:
    name: str = key(
        "standard",
        "what the score is to be set beside: standard (ours), hf_compat (transformers' published rows)",
    )


@dataclass
class Published:
    """A score that someone has published for this recipe. Nothing here changes a run."""

    value: float | None = key(None, "the published rate, as a fraction", minimum=0)
    metric: str | None = key(None, "the rate it is: wer, cer or per", choices=("wer", "cer", "per"))
    cer: float | None = key(None, "the character error rate published beside it", minimum=0)
    split: str | None = key(None, "the split it was scored on, as the source names it")
    protocol: dict[str, Any] = key(
        {}, "parts of the protocol it was scored by (text, inventory); a run with others is not comparable"
    )
    source: str | None = key(None, "where it stands")
    hardware: str | None = key(None, "what it was trained on")
    time: str | None = key(None, "how long that took")
    tolerance: float | None = key(
        0.01, "how far from it a run may end and still reproduce it, as a fraction", minimum=0
    )
    inferred: list[str] = key([], "keys of the recipe that the source does not state")
