"""A trained recogniser, ready to be used: recordings in, transcripts with word times out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from asr_exp.alignment import Word, align_labels, words_of
from asr_exp.assembly import build_recogniser
from asr_exp.config import run_folder
from asr_exp.data.batching import Batch, cost, pack
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding import Decoder, make_decoder
from asr_exp.errors import UserError
from asr_exp.model import Emissions, Recogniser
from asr_exp.runtime import Runtime


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording of so many seconds."""

    text: str
    words: list[Word]
    seconds: float


class Transcriber:
    """Recordings (int16, mono, at `rate`) to transcripts; what is given together goes through the network in batches by length."""

    def __init__(self, model: Recogniser, tokenizer: Tokenizer, decoder: Decoder, device: torch.device, device_seconds: float = 100.0):
        self.model, self.tokenizer, self.decoder = model.eval(), tokenizer, decoder
        self.device, self.device_seconds = device, device_seconds
        self.rate: int = model.extractor.sampling_rate
        self.frame = float(np.prod(model.network.config.conv_stride)) / self.rate  # seconds from one frame to the next

    def __call__(self, clips: Sequence[np.ndarray]) -> list[Transcript]:
        """The transcript of each clip, in their order."""
        found: list[Transcript | None] = [None] * len(clips)
        for indices, emissions in self._passes(clips):
            texts = self.decoder(emissions.logits, emissions.frames)
            log_probs = emissions.logits.log_softmax(-1).cpu()
            for row, (index, text) in enumerate(zip(indices.tolist(), texts, strict=True)):
                words = self.words(log_probs[row, : emissions.frames[row]], text)
                found[index] = Transcript(self.tokenizer.scored(text), words, len(clips[index]) / self.rate)
        return [one or Transcript("", [], len(clip) / self.rate) for one, clip in zip(found, clips, strict=True)]

    def emissions(self, clips: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """Log probabilities of each clip, (frames, vocabulary) fp32 on the CPU; no frames of a clip too short for one."""
        found = [torch.empty(0, len(self.tokenizer))] * len(clips)
        for indices, emissions in self._passes(clips):
            log_probs = emissions.logits.log_softmax(-1).cpu()
            for row, index in enumerate(indices.tolist()):
                found[index] = log_probs[row, : emissions.frames[row]].clone()
        return found

    def words(self, log_probs: torch.Tensor, text: str) -> list[Word]:
        """When the words of a text are said in an utterance, (frames, vocabulary). No words where it cannot be aligned."""
        labels = self.tokenizer.encode(text)
        try:
            return words_of(align_labels(log_probs, labels.tolist(), self.tokenizer.blank), self.tokenizer, self.frame)
        except ValueError:
            return []

    @torch.inference_mode()
    def _passes(self, clips: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, Emissions]]:
        usable = np.array([i for i, clip in enumerate(clips) if self.model.frames(len(clip)) > 0], dtype=np.int64)
        seconds = np.array([len(clips[i]) / self.rate for i in usable])
        for rows in pack(np.arange(len(usable)), cost(seconds), self.device_seconds):
            indices = usable[rows]
            yield indices, self.model(_batch([clips[i] for i in indices], indices).to(self.device))


def load_transcriber(config: DictConfig, runtime: Runtime) -> Transcriber:
    """The recogniser that `run=` names: a run's folder, or a CTC checkpoint (a folder, or a hub id) with its own vocabulary.

    Without `run=`, the run that the settings lead to, or else their model.checkpoint. Raises UserError where there is none.
    """
    t = config.tokenizer
    checkpoint = checkpoint_of(config)
    tokenizer = Tokenizer.from_checkpoint(checkpoint, config.model.revision, t.unit, t.inventory, t.score_inventory)
    model = build_recogniser(config, tokenizer, runtime, checkpoint=checkpoint)
    decoder = make_decoder(config.decode.name, tokenizer, config.decode.settings)
    return Transcriber(model, tokenizer, decoder, runtime.device, config.trainer.device_seconds)


def checkpoint_of(config: DictConfig) -> str:
    """The checkpoint that `run=` or the settings name: a folder, or a hub id. Raises UserError where there is none."""
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
    if (best := folder / "checkpoints" / "best").is_dir():
        return str(best)
    if (folder / "config.yaml").is_file():
        raise UserError(f"{folder} has no checkpoints/best yet; its training has not come to its first evaluation.")
    if config.run:
        return config.run
    if config.model.checkpoint and config.model.head == "keep":
        return config.model.checkpoint
    raise UserError(f"These settings lead to {folder}, which holds no trained model; train it first, or give run=FOLDER.")


def _batch(clips: Sequence[np.ndarray], indices: np.ndarray) -> Batch:
    lengths = [len(clip) for clip in clips]
    audio = np.zeros((len(clips), max(lengths)), dtype=np.int16)
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    return Batch(indices, torch.from_numpy(audio), lengths, torch.empty(0, dtype=torch.int32), [0] * len(clips))
