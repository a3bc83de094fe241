"""A fine-tuned CTC checkpoint to be used as it is: a run's best, a folder, an id of the hub, a bundle of
torchaudio.pipelines.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.data import checkpoint_tokenizer
from asr_exp.builders.model import build_recogniser
from asr_exp.core.errors import UserError
from asr_exp.evaluation.emission_cache import checkpoint_hash
from asr_exp.model.loading import read_config, read_outline
from asr_exp.model.recogniser import ModelInfo, Recogniser
from asr_exp.runtime.distributed import Runtime


@dataclass
class FineTuned:
    """A checkpoint, its vocabulary read at once, its network when it is asked for. Every rank makes one, and
    asks for the same.

    config: model.revision is of an id on the hub; model.config is heeded where it is the config's own
    model.checkpoint. held: what keeps others from writing it while it is read. Raises UserError for a
    checkpoint that cannot be read.
    """

    config: DictConfig
    runtime: Runtime
    checkpoint: str
    held: Callable[[], AbstractContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        m = self.config.model
        self._own = self.checkpoint == m.checkpoint and m.head == "keep"
        self.revision: str | None = m.revision  # of an id on the hub: a folder has none
        read_config(self.checkpoint, self.revision, keep_head=True)
        self.tokenizer = checkpoint_tokenizer(self.config, self.checkpoint, self.revision)

    @cached_property
    def outline(self) -> ModelInfo:
        """What tells how many frames a clip has."""
        return ModelInfo(*read_outline(self.checkpoint, self.revision))

    @cached_property
    def hash(self) -> str:
        """A hash of all that its emissions depend on."""
        return self.runtime.broadcast(self._hash() if self.runtime.main else None)

    @cached_property
    def network(self) -> Recogniser:
        """Its network. Raises UserError where the checkpoint is no more the one that `hash` is of."""
        with self.held():
            if "hash" in vars(self) and self.hash != self.runtime.broadcast(
                self._hash() if self.runtime.main else None
            ):
                raise UserError(
                    f"{self.checkpoint} has become another checkpoint meanwhile; give the command again."
                )
            checkpoint = None if self._own else self.checkpoint
            model = build_recogniser(self.config, self.tokenizer, self.runtime, checkpoint=checkpoint).eval()
            self.runtime.broadcast(None)  # every rank has read it
        return model

    def save(self, folder: Path) -> None:
        """Write it as transformers' `from_pretrained` reads it. Every rank has asked for the network
        before.
        """
        self.network.save(folder)
        self.tokenizer.save(folder)

    def identity(self) -> dict[str, Any]:
        """What result.json says of it; the hash is of the weights and the vocabulary."""
        digest = hashlib.blake2b(f"{self.hash} {self.tokenizer.tokens}".encode(), digest_size=8).hexdigest()
        return {"name": self.checkpoint, "revision": self.revision, "hash": digest}

    def _hash(self) -> str:
        found, settings = checkpoint_hash(self.checkpoint, self.revision), self.config.model.config
        return f"{found} {sorted(settings.items())}" if self._own and settings else found
