"""The weights of a pretrained checkpoint, from safetensors or from a pickle of which nothing is run."""

import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from asr_exp.core.errors import UserError
from asr_exp.model.pretrained.source import CheckpointSource

# In order of preference. An index names the files that hold parts of the weights.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HEAD = "lm_head.weight"
PARALLEL = "module."  # prefix of every name in a checkpoint of torch's DataParallel


def read_weights(source: CheckpointSource) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name, on the CPU, in the type that they are saved in. Zip files and
    safetensors are mapped into memory.

    Raises UserError for a checkpoint without weights, for a file that is missing, is damaged or holds more
    than weights, and for a pickle with code.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in weight_files(source):
        read = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
        weights |= read(source, path)
    return {name.removeprefix(PARALLEL): tensor for name, tensor in weights.items()}


def weight_files(source: CheckpointSource) -> list[Path]:
    """The files that hold a checkpoint's weights.

    Raises UserError where there are none, or where one that the index names is missing.
    """
    name, path = next(((name, path) for name in FILES if (path := source.file(name))), ("", None))
    if path is None:
        raise source.lacks("weights (model.safetensors or pytorch_model.bin)")
    if not name.endswith(".index.json"):
        return [path]
    places = (source.json(name) or {}).get("weight_map")
    if (
        not isinstance(places, dict)
        or not places
        or not all(isinstance(one, str) and Path(one).name == one for one in places.values())
    ):
        raise source.error(f"{name} does not say which file holds which weight; download it again")
    shards = {shard: source.file(shard) for shard in sorted(set(places.values()))}
    missing = [shard for shard, shard_path in shards.items() if shard_path is None]
    if missing:
        raise source.error(
            f"{len(missing)} of the {len(shards)} files that {name} names are not there, such as"
            f" {missing[0]}; download them"
        )
    return [shard_path for shard_path in shards.values() if shard_path]


def head_size(source: CheckpointSource) -> int | None:
    """The number of outputs of a checkpoint's CTC head; None where it has no head."""
    for path in weight_files(source):
        if path.suffix != ".safetensors":
            weights = _read_pickle(source, path)
            head = weights.get(HEAD, weights.get(PARALLEL + HEAD))
            shape = None if head is None else list(head.shape)
        else:
            from safetensors import safe_open

            with _safetensors_errors(source, path), safe_open(path, "pt") as file:
                name = next((name for name in (HEAD, PARALLEL + HEAD) if name in file.keys()), None)  # noqa: SIM118
                shape = file.get_slice(name).get_shape() if name else None
        if shape:
            return int(shape[0])
    return None


# ------------------------------------------------------------------------------------------------------------
# files


class _safetensors_errors:
    """Turns the error of safetensors for a file that it cannot read into a UserError."""

    def __init__(self, source: CheckpointSource, path: Path):
        self.source, self.path = source, path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, why: BaseException | None, trace: Any) -> None:
        from safetensors import SafetensorError

        if isinstance(why, SafetensorError):
            raise _damaged(self.source, self.path, str(why)) from None


def _read_safetensors(source: CheckpointSource, path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    with _safetensors_errors(source, path):
        return load_file(path)


def _read_pickle(source: CheckpointSource, path: Path) -> dict[str, torch.Tensor]:
    try:
        # Mapped, because the weights are copied into the network anyway. Warnings about pickle protocols that
        # torch may not read are ignored: if it cannot read one, it fails.
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as why:
        if imports := sorted(set(_foreign_globals(path))):
            if fairseq := [one for one in imports if one.startswith(("argparse.", "fairseq.", "omegaconf."))]:
                raise source.error(
                    f"{path.name} is a checkpoint of fairseq ({fairseq[0]}) and not of transformers; give its"
                    " copy on the hub, or convert it"
                ) from None
            raise source.error(
                f"{path.name} is a pickle that holds more than weights ({imports[0]}), which would run as"
                " code, so it is not opened; give a copy in safetensors"
            ) from None
        raise _damaged(source, path, str(why)) from None
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        held = (
            ", ".join(map(str, list(content)[:4]))
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise source.error(
            f"{path.name} holds {held}, as training scripts save their state, and not weights alone; "
            "give a folder that save_pretrained wrote"
        )
    return content


def _damaged(source: CheckpointSource, path: Path, why: str) -> UserError:
    reason = " ".join(why.split())[:80].rstrip(". ")
    return source.error(
        f"{path.name} is cut short or damaged ({path.stat().st_size:,} bytes{f': {reason}' * bool(reason)}); "
        "download it again"
    )


def _foreign_globals(path: Path) -> Iterator[str]:
    """The names that a pickle, plain or in torch's zip file, would have Python import, without those that
    tensors are built from.
    """
    try:
        if zipfile.is_zipfile(path):
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(next(n for n in archive.namelist() if n.endswith("data.pkl"))) as file,
            ):
                names = list(_globals(file))  # type: ignore[arg-type]
        else:
            with path.open("rb") as file:
                # torch's older format: four pickles, one after the other
                names = [name for _ in range(4) for name in _globals(file)]
    except (OSError, StopIteration, zipfile.BadZipFile):
        return
    for name in names:
        if not name.startswith("torch.") and name not in ("collections.OrderedDict", "_codecs.encode"):
            yield name


def _globals(file: BinaryIO) -> Iterator[str]:
    strings: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                yield ".".join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, UnicodeDecodeError):  # not a pickle, or not to its end
        return


def draw_mask_embedding(network: Any, missing: Iterable[str]) -> None:
    """Draw the embedding of masked frames, uniformly from 0 to 1, where a checkpoint lacks it.

    missing: the names of the weights that the checkpoint lacks. The numbers follow from torch's seed, and
    torch's generator stays as it is. transformers 5.18 leaves the embedding uninitialised in all families but
    HuBERT; later releases draw it themselves.
    """
    for name in missing:
        if name.endswith("masked_spec_embed"):
            generator = torch.Generator().manual_seed(torch.initial_seed())
            network.get_parameter(name).data.uniform_(generator=generator)
