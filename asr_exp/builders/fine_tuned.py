"""A fine-tuned CTC checkpoint that is used without training: the best of a run, a folder, an id on the hub,
or a bundle of torchaudio.pipelines.
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
from asr_exp.model.loading import read_model_info
from asr_exp.model.model_config import ModelSettings, read_config
from asr_exp.model.model_info import ModelInfo
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.saving import save_pretrained
from asr_exp.runtime.distributed import Runtime


@dataclass
class FineTuned:
    """A checkpoint. Its vocabulary is read at once, its network when it is first used. Every rank makes one,
    and uses the same properties in the same order.

    config: model.revision counts for an id on the hub, model.config where the checkpoint is the config's own
    model.checkpoint; held: makes a context that keeps other processes from writing the checkpoint while it is
    read. Raises UserError for a checkpoint that cannot be read.
    """

    config: DictConfig
    runtime: Runtime
    checkpoint: str
    held: Callable[[], AbstractContextManager[None]] = nullcontext

    def __post_init__(self) -> None:
        model = self.config.model
        self._is_configured = self.checkpoint == model.checkpoint and model.head == "keep"
        self.revision: str | None = model.revision  # of an id on the hub; a folder has none
        read_config(ModelSettings(self.checkpoint, self.revision, keep_head=True))
        self.tokenizer = checkpoint_tokenizer(self.config, self.checkpoint, self.revision)

    @cached_property
    def outline(self) -> ModelInfo:
        """The sample rate and the frames of a clip, without loading the network."""
        return read_model_info(self.checkpoint, self.revision)

    @cached_property
    def hash(self) -> str:
        """A hash of all that its emissions depend on."""
        return self.runtime.broadcast(self._hash() if self.runtime.main else None)

    @cached_property
    def network(self) -> Recogniser:
        """The network. Raises UserError where the checkpoint has changed since `hash` was taken."""
        with self.held():
            if "hash" in vars(self):
                now = self.runtime.broadcast(self._hash() if self.runtime.main else None)
                if now != self.hash:
                    raise UserError(
                        f"{self.checkpoint} has become another checkpoint meanwhile; give the command again."
                    )
            checkpoint = None if self._is_configured else self.checkpoint
            model = build_recogniser(self.config, self.tokenizer, self.runtime, checkpoint=checkpoint).eval()
            self.runtime.broadcast(None)  # every rank has read it
        return model

    def save(self, folder: Path) -> None:
        """Write the checkpoint as transformers' `from_pretrained` reads it. Every rank has loaded the network
        before.
        """
        save_pretrained(self.network, folder)
        self.tokenizer.save(folder)

    def identity(self) -> dict[str, Any]:
        """How result.json names the checkpoint; the hash is of the weights and the vocabulary."""
        digest = hashlib.blake2b(f"{self.hash} {self.tokenizer.tokens}".encode(), digest_size=8).hexdigest()
        return {"name": self.checkpoint, "revision": self.revision, "hash": digest}

    def _hash(self) -> str:
        digest = checkpoint_hash(self.checkpoint, self.revision)
        settings = self.config.model.config
        return f"{digest} {sorted(settings.items())}" if self._is_configured and settings else digest
