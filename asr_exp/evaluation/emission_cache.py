"""What a checkpoint says of a split, kept on the disk: scoring by another decoder, and tuning one, need no
network.

A file of `emissions/KEY/` in the run folder is one forward pass. The key is a hash of the weights, the audio,
the padding and the way the utterances are dealt to passes, so what is kept is never stale. Logits are kept in
fp32, to the last bit.
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
CPU_SECONDS = 20.0  # audio of a pass on a CPU, at the most: more is not faster there, and takes more memory
ABREAST = 2  # passes through the network at a time, on a CPU
# Of a checkpoint's folder: all that its emissions depend on, weights first.
FILES = ("*.safetensors", "*.bin", "config.json", "preprocessor_config.json", "processor_config.json")


def plan_passes(
    split: Split, device_seconds: float, device: torch.device, only: np.ndarray | None = None
) -> list[np.ndarray]:
    """The forward passes of a split, or of some of its utterances: indices, the longest utterances first."""
    indices = np.arange(len(split)) if only is None else only
    return pack(
        indices,
        cost(split.seconds),
        min(device_seconds, CPU_SECONDS) if device.type == "cpu" else device_seconds,
    )


@dataclass(frozen=True)
class EmissionStore:
    """Where the emissions of one checkpoint are kept, and what they depend on besides the split.

    run: the run folder; checkpoint: its hash; padding: as `model.padding`; device_seconds: of a forward pass.
    """

    run: Path
    checkpoint: str
    padding: str
    device_seconds: float

    def open(self, split: Split, device: torch.device, only: np.ndarray | None = None) -> "EmissionCache":
        """The kept emissions of a split, or of some of its utterances. only: their indices."""
        passes = plan_passes(split, self.device_seconds, device, only)
        return EmissionCache(self.run, self.checkpoint, split, self.padding, passes)


class EmissionCache:
    """The emissions of some passes, as far as they are on the disk; those that come later are added, unless
    they would take too much.
    """

    def __init__(self, run: Path, checkpoint: str, split: Split, padding: str, passes: Sequence[np.ndarray]):
        digest = hashlib.blake2b(f"{checkpoint} {split.audio_hash} {padding}".encode(), digest_size=8)
        for indices in passes:
            digest.update(indices.tobytes() + b"/")
        self.folder = run / "emissions" / f"{split.name}-{digest.hexdigest()}"
        self.passes = passes
        self._fits: bool | None = None

    def has(self, number: int) -> bool:
        return self._path(number).is_file()

    @property
    def complete(self) -> bool:
        return all(map(self.has, range(len(self.passes))))

    def read(self, number: int) -> tuple[np.ndarray, Emissions]:
        """Indices of a pass and their emissions, on the CPU. Raises UserError where the file is damaged or
        gone.
        """
        path = self._path(number)
        try:
            found = load_file(path)
            frames = found["frames"].tolist()
            rows = found["logits"].split(frames)
            return found["indices"].numpy(), Emissions(
                torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), frames
            )
        except Exception as why:
            reason = str(why).splitlines()[0]
            raise UserError(
                f"{path} cannot be read ({reason}); delete {path.parent} and give the command again."
            ) from why

    def write(self, number: int, indices: np.ndarray, emissions: Emissions) -> None:
        """Keep a pass, if there is room for as many of its size."""
        rows = [row[:n] for row, n in zip(emissions.logits.cpu(), emissions.frames, strict=True)]
        logits = torch.cat(rows).contiguous()
        if self._fits is None:
            self._fits = self._make_room(logits.nbytes * len(self.passes))
        if not self._fits:
            return
        path = self._path(number)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {
                    "indices": torch.from_numpy(indices),
                    "frames": torch.tensor(emissions.frames),
                    "logits": logits,
                },
                beside,
            )
            os.replace(beside, path)
        except (OSError, SafetensorError) as why:  # a full disk: the scores need it not
            self._fits = False
            with suppress(OSError):
                beside.unlink()
            log.warning("What the network says is not kept in %s: %s", self.folder, why)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _make_room(self, wanted: int) -> bool:
        """Delete the oldest of the run's other emissions until there is room for so many bytes -> whether
        there can be.
        """
        if wanted > ROOM:
            return False
        others = [one for one in self.folder.parent.glob("*") if one.is_dir() and one != self.folder]
        sizes, ages = {}, {}
        for one in others:
            with suppress(FileNotFoundError):  # another evaluation is writing, or making room too
                sizes[one], ages[one] = (
                    sum(file.stat().st_size for file in one.iterdir()),
                    one.stat().st_mtime,
                )
        for one in sorted(ages, key=lambda one: ages[one]):
            if sum(sizes.values()) + wanted <= ROOM:
                break
            shutil.rmtree(one, ignore_errors=True)
            del sizes[one]
        return True


def checkpoint_hash(checkpoint: Path | str, revision: str | None = None) -> str:
    """A hash of all that the emissions of a checkpoint depend on: its files, or the commit that an id on the
    hub stands for.
    """
    digest, name = hashlib.blake2b(digest_size=8), str(checkpoint)
    if name.startswith(BUNDLE):  # what torchaudio calls so never changes
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
    kept: EmissionCache | None = None,
) -> Iterator[tuple[np.ndarray, Emissions]]:
    """The emissions of those passes that have these numbers, each with the indices of its utterances; in
    fp32.

    What is kept is read; for the rest it takes a model. Memory does not grow with the split.
    """
    there = {number for number in numbers if kept and kept.has(number)}
    made = _made(model, split, (passes[number] for number in numbers if number not in there), device)
    for number in numbers:
        if kept and number in there:
            yield kept.read(number)
            continue
        indices, emissions = next(made)
        if kept:
            kept.write(number, indices, emissions)
        yield indices, emissions


def _made(
    model: Recogniser | None, split: Split, passes: Iterable[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, Emissions]]:
    """Passes through the network: on a CPU two at a time, so that no time is lost while one waits for Python,
    or a thread for another.
    """
    if model is None:
        return  # all are kept
    heard = torch.inference_mode()(lambda batch: (batch.indices, model(batch.to(device))))
    with model.inference_cache():
        # what gathers cut weights is for one thread
        if device.type == "cpu" and torch.get_num_threads() >= ABREAST and not is_cut(model):
            yield from side_by_side(passes, lambda indices: heard(collate(split, indices)), ABREAST)
        else:
            yield from map(heard, prefetch(passes, lambda indices: collate(split, indices)))
