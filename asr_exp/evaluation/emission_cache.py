"""The emissions of a checkpoint for a split, kept on the disk. Scoring with another decoder, or tuning one,
then runs no forward pass.

A file of `emissions/KEY/` in the run folder holds one forward pass. KEY is a hash of the weights, the audio,
the padding and the assignment of utterances to passes, so a file is never stale. Logits are kept in fp32, to
the last bit.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asr_exp.core.errors import UserError
from asr_exp.data.batch import collate, prefetch
from asr_exp.data.batch_plan import cost, pack
from asr_exp.data.prepare import Split
from asr_exp.model.pretrained.source import BUNDLE, find_checkpoint
from asr_exp.model.recogniser import Emissions, Recogniser
from asr_exp.runtime.fsdp import is_cut
from asr_exp.runtime.threads import side_by_side

log = logging.getLogger(__name__)
ROOM = 4 * 2**30  # bytes that the emissions of a run may take
CPU_SECONDS = 20.0  # the most audio of a pass on a CPU: more is not faster there, and takes more memory
CPU_PASSES = 2  # forward passes that run at a time on a CPU
# The files of a checkpoint's folder that its emissions depend on, weights first.
FILES = ("*.safetensors", "*.bin", "config.json", "preprocessor_config.json", "processor_config.json")


def plan_passes(
    split: Split, device_seconds: float, device: torch.device, only: np.ndarray | None = None
) -> list[np.ndarray]:
    """The forward passes of a split, the longest utterances first: for each, the indices of its utterances.

    device_seconds: audio of a pass; only: indices of the utterances to take (None: all).
    """
    indices = np.arange(len(split)) if only is None else only
    budget = min(device_seconds, CPU_SECONDS) if device.type == "cpu" else device_seconds
    return pack(indices, cost(split.seconds), budget)


@dataclass(frozen=True)
class EmissionStore:
    """The emissions of one checkpoint, of any split.

    run: the run folder that keeps them; checkpoint: the hash of the checkpoint; padding: as `model.padding`;
    device_seconds: audio of a forward pass.
    """

    run: Path
    checkpoint: str
    padding: str
    device_seconds: float

    def open(self, split: Split, device: torch.device, only: np.ndarray | None = None) -> "EmissionCache":
        """The cache of a split. only: indices of the utterances it is of (None: all)."""
        passes = plan_passes(split, self.device_seconds, device, only)
        return EmissionCache(self.run, self.checkpoint, split, self.padding, passes)


class EmissionCache:
    """The emissions of some forward passes of a split, as far as they are on the disk. `write` adds a pass,
    unless all of them would take more than `ROOM`.
    """

    def __init__(self, run: Path, checkpoint: str, split: Split, padding: str, passes: Sequence[np.ndarray]):
        digest = hashlib.blake2b(f"{checkpoint} {split.audio_hash} {padding}".encode(), digest_size=8)
        for indices in passes:
            digest.update(indices.tobytes() + b"/")
        self.folder = run / "emissions" / f"{split.name}-{digest.hexdigest()}"
        self.passes = passes
        self._fits: bool | None = None

    def has(self, number: int) -> bool:
        """Whether a pass is on the disk."""
        return self._path(number).is_file()

    @property
    def complete(self) -> bool:
        """Whether every pass is on the disk."""
        return all(map(self.has, range(len(self.passes))))

    def read(self, number: int) -> tuple[np.ndarray, Emissions]:
        """The indices of the utterances of a pass, and their emissions on the CPU. Raises UserError where the
        file is damaged or gone.
        """
        path = self._path(number)
        try:
            tensors = load_file(path)
            frames = tensors["frames"].tolist()
            rows = tensors["logits"].split(frames)
            logits = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
            return tensors["indices"].numpy(), Emissions(logits, frames)
        except Exception as why:
            reason = str(why).splitlines()[0]
            raise UserError(
                f"{path} cannot be read ({reason}); delete {path.parent} and give the command again."
            ) from why

    def write(self, number: int, indices: np.ndarray, emissions: Emissions) -> None:
        """Keep a pass, if there is room for all passes, taken to be as large as the first that is written."""
        rows = [row[:n] for row, n in zip(emissions.logits.cpu(), emissions.frames, strict=True)]
        logits = torch.cat(rows).contiguous()
        if self._fits is None:
            self._fits = self._make_room(logits.nbytes * len(self.passes))
        if not self._fits:
            return
        path = self._path(number)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        frames = torch.tensor(emissions.frames)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"indices": torch.from_numpy(indices), "frames": frames, "logits": logits}, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as why:  # a full disk: the scores do not need the file
            self._fits = False
            with suppress(OSError):
                temporary.unlink()
            log.warning("The emissions of the network are not kept in %s: %s", self.folder, why)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _make_room(self, needed: int) -> bool:
        """Delete the oldest of the run's other emissions until `needed` bytes fit; False where they never
        will.
        """
        if needed > ROOM:
            return False
        sizes: dict[Path, int] = {}
        times: dict[Path, float] = {}
        for folder in self.folder.parent.glob("*"):
            if folder.is_dir() and folder != self.folder:
                with suppress(FileNotFoundError):  # another evaluation is writing, or making room too
                    size = sum(file.stat().st_size for file in folder.iterdir())
                    times[folder] = folder.stat().st_mtime
                    sizes[folder] = size
        for folder in sorted(sizes, key=lambda folder: times[folder]):
            if sum(sizes.values()) + needed <= ROOM:
                break
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]
        return True


def checkpoint_hash(checkpoint: Path | str, revision: str | None = None) -> str:
    """A hash of all that the emissions of a checkpoint depend on: of its files or, for an id on the hub, of
    the commit.
    """
    digest = hashlib.blake2b(digest_size=8)
    name = str(checkpoint)
    if name.startswith(BUNDLE):  # a bundle of torchaudio never changes under its name
        digest.update(name.encode())
        return digest.hexdigest()
    source = find_checkpoint(name, revision)
    if source.commit:
        digest.update(f"{source.repository} {source.commit}".encode())
        return digest.hexdigest()
    for path in (path for pattern in FILES for path in sorted(source.folder.glob(pattern))):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


@torch.inference_mode()
def emit(
    model: Recogniser | None,
    split: Split,
    passes: Sequence[np.ndarray],
    numbers: Sequence[int],
    device: torch.device,
    cache: EmissionCache | None = None,
) -> Iterator[tuple[np.ndarray, Emissions]]:
    """Yield the emissions of some forward passes in fp32, each with the indices of its utterances. Memory
    does not grow with the split.

    Args:
        model: in evaluation mode; None where the cache has all of `numbers`.
        split: the utterances.
        passes: of the whole split, see `plan_passes`.
        numbers: which of the passes to yield, in this order.
        device: that of the model.
        cache: passes that it has are read from it; the others are computed and added to it.

    Raises:
        UserError: a file of the cache is damaged.
    """
    cached = {number for number in numbers if cache and cache.has(number)}
    missing = (passes[number] for number in numbers if number not in cached)
    computed = _forward(model, split, missing, device)
    for number in numbers:
        if cache and number in cached:
            yield cache.read(number)
            continue
        indices, emissions = next(computed)
        if cache:
            cache.write(number, indices, emissions)
        yield indices, emissions


def _forward(
    model: Recogniser | None, split: Split, passes: Iterable[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, Emissions]]:
    """Run forward passes. On a CPU two run at a time: while one waits for Python, or for a thread, the other
    uses the cores.
    """
    if model is None:
        return  # the cache has all of them
    forward = torch.inference_mode()(lambda batch: (batch.indices, model(batch.to(device))))
    with model.inference_cache():
        # FSDP gathers sharded weights in one thread only
        if device.type == "cpu" and torch.get_num_threads() >= CPU_PASSES and not is_cut(model):
            yield from side_by_side(passes, lambda indices: forward(collate(split, indices)), CPU_PASSES)
        else:
            yield from map(forward, prefetch(passes, lambda indices: collate(split, indices)))
