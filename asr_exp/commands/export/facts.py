"""What a model card is made of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What is known of an exported recogniser.

    name: the card's title; where: what a user loads the model by, an id of the hub or a folder's name;
    model_type, parameters: of the network; rate: its sampling rate in Hz; sees_mask: whether it takes an
    attention mask; vocabulary: its units in order.
    config: the run's resolved settings; result: its result.json, None where the checkpoint is no run's;
    environment: its environment.json; evaluations: the result.json of each evaluation beside the run's own.
    onnx: a sentence on each ONNX file, by its path in the folder.
    """

    name: str
    where: str
    model_type: str
    parameters: int
    rate: int
    sees_mask: bool
    vocabulary: Sequence[str]
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    onnx: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> Mapping[str, Any] | None:
        """The result of a finished run, whose scores may be claimed; None for a rehearsal's too."""
        result = self.result or {}
        return result if result.get("status") == "finished" and not result.get("rehearsal") else None

    @property
    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        """The scores in result.json by split."""
        return (self.result or {}).get("splits") or {}

    @property
    def checkpoint(self) -> str | None:
        """The pretrained checkpoint that training began with."""
        return self.config["model"]["checkpoint"]


def is_hub_id(checkpoint: str | None) -> bool:
    """Whether a checkpoint is one of the hub, ORGANISATION/NAME, and not the path of a folder."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint or ""))
