"""The emissions of a checkpoint for a split, kept on the disk. Scoring with another decoder, or tuning one,
then runs no forward pass.

A file of `emissions/KEY/` in the run folder holds one forward pass. KEY is a hash of the weights, the audio,
the padding, the precision and the assignment of utterances to passes, so a file is never stale. Logits are
kept in fp32, to the last bit, and with a checksum: a pass that is damaged on the disk is computed again.
"""

import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from asr_exp.core.errors import UserError
from asr_exp.data.batch import collate
from asr_exp.data.batch_plan import cost, pack
from asr_exp.data.prepare import Split
from asr_exp.model.forward_passes import ForwardPasses, Measure, PassResult, pass_seconds
from asr_exp.model.pretrained.source import BUNDLE, find_checkpoint
from asr_exp.model.recogniser import Emissions, Recogniser

log = logging.getLogger(__name__)
ROOM = 4 * 2**30  # bytes that the emissions of a run may take
TENSORS = ("indices", "frames", "logits")  # of a pass
# The files of a checkpoint's folder that its emissions depend on, weights first.
FILES = ("*.safetensors", "*.bin", "config.json", "preprocessor_config.json", "processor_config.json")


def plan_passes(
    split: Split, device_seconds: float | str, device: torch.device, only: np.ndarray | None = None
) -> list[np.ndarray]:
    """The forward passes of a split, the longest utterances first: for each, the indices of its utterances.

    device_seconds: as `trainer.device_seconds`; only: indices of the utterances to take (None: all).
    """
    indices = np.arange(len(split)) if only is None else only
    return pack(indices, cost(split.seconds), pass_seconds(device_seconds, device))


@dataclass(frozen=True)
class EmissionStore:
    """The emissions of one checkpoint, of any split.

    run: the run folder that keeps them; checkpoint: the hash of the checkpoint; padding: as `model.padding`;
    device_seconds: audio of a forward pass; precision: as `evaluate.precision`.
    """

    run: Path
    checkpoint: str
    padding: str
    device_seconds: float | str
    precision: str = "fp32"

    def open(self, split: Split, device: torch.device, only: np.ndarray | None = None) -> "EmissionCache":
        """The cache of a split. only: indices of the utterances it is of (None: all)."""
        passes = plan_passes(split, self.device_seconds, device, only)
        return EmissionCache(self.run, self.checkpoint, split, self.padding, passes, self.precision)


class EmissionCache:
    """The emissions of some forward passes of a split, as far as they are on the disk. `write` adds a pass,
    unless all of them would take more than `ROOM`.
    """

    def __init__(
        self,
        run: Path,
        checkpoint: str,
        split: Split,
        padding: str,
        passes: Sequence[np.ndarray],
        precision: str = "fp32",
    ):
        """Arguments as of `EmissionStore`; passes: of the split, see `plan_passes`."""
        key = f"{checkpoint} {split.audio_hash} {padding}" + (f" {precision}" if precision != "fp32" else "")
        digest = hashlib.blake2b(key.encode(), digest_size=8)
        for indices in passes:
            digest.update(indices.tobytes() + b"/")
        self.folder = run / "emissions" / f"{split.name}-{digest.hexdigest()}"
        self.passes = passes
        self.precision = precision
        self._fits: bool | None = None
        self._whole: set[int] = set()  # passes that are known to be so
        self._told = False

    def has(self, number: int) -> bool:
        """Whether a pass is whole on the disk. The log names the first that is damaged."""
        path = self._path(number)
        if number not in self._whole and path.is_file():
            if _is_whole(path):
                self._whole.add(number)
            elif not self._told:
                self._told = True
                log.warning("%s is damaged: the network computes such emissions again.", path)
        return number in self._whole

    @property
    def complete(self) -> bool:
        """Whether every pass is on the disk."""
        return all(map(self.has, range(len(self.passes))))

    @property
    def begun(self) -> bool:
        """Whether some pass is on the disk."""
        return any(map(self.has, range(len(self.passes))))

    def read(self, number: int) -> tuple[np.ndarray, Emissions]:
        """The indices of the utterances of a pass that `has` has found, and their emissions on the CPU.
        Raises UserError where the file can no longer be read.
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
        tensors = {
            "indices": torch.from_numpy(indices),
            "frames": torch.tensor(emissions.frames),
            "logits": logits,
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, {"crc32": str(_checksum(tensors))})
            os.replace(temporary, path)
            self._whole.add(number)
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


def _checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    value = 0
    for name in TENSORS:
        tensor = tensors[name]
        value = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.contiguous().numpy().data, value)
    return value


def _is_whole(path: Path) -> bool:
    """Whether the emissions of a file are as they were written; not so where it has no checksum."""
    try:
        with safe_open(path, "pt") as file:
            kept = (file.metadata() or {}).get("crc32")
            return kept == str(_checksum({name: file.get_tensor(name) for name in TENSORS}))
    except Exception:  # whatever safetensors raises for a damaged file
        return False


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


def forward_passes(
    model: Recogniser, split: Split, device: torch.device, precision: str = "fp32"
) -> ForwardPasses:
    """The forward passes of a model over a split; it is put into evaluation mode."""
    return ForwardPasses(
        model.eval(),
        device,
        precision,
        lambda index: f"The utterance {split.utterances[index].id} of {split.name}",
        "a lower dataset.max_eval_seconds, evaluate.precision=bf16 or trainer.device=cpu",
    )


@torch.inference_mode()
def emit(
    passes: ForwardPasses | None,
    split: Split,
    plan: Sequence[np.ndarray],
    numbers: Sequence[int],
    cache: EmissionCache | None = None,
    measure: Measure | None = None,
) -> Iterator[PassResult]:
    """Yield the results of some forward passes, emissions in fp32 on the CPU. Memory does not grow with the
    split.

    Args:
        passes: of a model in evaluation mode; None where the cache has all of `numbers`.
        split: the utterances.
        plan: the passes of the whole split, see `plan_passes`.
        numbers: which of them to yield, in this order.
        cache: passes that it has are read from it; the others are computed and added to it.
        measure: called with the emissions of each pass, on the device where they are computed.

    Raises:
        UserError: a file of the cache is damaged, or an utterance does not fit in the GPU's memory.
    """
    cached = {number for number in numbers if cache and cache.has(number)}
    missing = (plan[number] for number in numbers if number not in cached)
    with passes.model.inference_cache() if passes else nullcontext():
        computed = (
            passes.run(missing, lambda indices: collate(split, indices), measure) if passes else iter(())
        )
        for number in numbers:
            if cache and number in cached:
                indices, emissions = cache.read(number)
                yield PassResult(indices, emissions, measure(indices, emissions) if measure else None)
                continue
            result = next(computed)
            if cache:
                cache.write(number, result.indices, result.emissions)
            yield result
