"""The files of a pretrained checkpoint, which are in a folder, in a run's folder, in this package, or in a
repository of the hub.
"""

import functools
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_exp.core.checksums import CHECKSUMS, damage
from asr_exp.core.errors import Unreachable, UserError
from asr_exp.core.files import is_run
from asr_exp.runtime import hub

BUILTIN = Path(__file__).parent  # folders of checkpoints, named builtin:FOLDER in a config
BUNDLE = "torchaudio:"  # prefix of networks of torchaudio.pipelines: see torchaudio_bundles.py
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Files that users have in place of weights that transformers reads, by the end of the name.
FOREIGN = {
    "flax_model.msgpack": "weights of Flax",
    "tf_model.h5": "weights of TensorFlow",
    "adapter_model.safetensors": "a PEFT adapter",
    "adapter_model.bin": "a PEFT adapter",
    "adapter_config.json": "a PEFT adapter",
    ".nemo": "a NeMo model",
    ".gguf": "GGUF weights",
    ".onnx": "an ONNX model",
    ".ckpt": "a training checkpoint of Lightning",
    ".pt": "a checkpoint of fairseq or of a training script",
    ".pth": "a checkpoint of a training script",
}


@dataclass(frozen=True)
class CheckpointSource:
    """The files of one checkpoint.

    name: what the user has typed. folder: where the files are, or the cache that they are downloaded to.
    repository, commit: on the hub; None for a local folder.
    """

    name: str
    folder: Path
    repository: str | None = None
    commit: str | None = None

    def file(self, name: str) -> Path | None:
        """The path of a file, which is downloaded if need be; None where the checkpoint has no such file.

        Raises UserError for a file that git-lfs has not fetched, and where the hub cannot be reached or
        refuses.
        """
        path = (
            self.folder / name
            if self.repository is None
            else _download(self.name, self.repository, name, self.commit)
        )
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise self.error(
                    f"{path.name} is a pointer of git-lfs and not the file itself; run `git lfs pull` in"
                    f" {self.folder}"
                )
        return path

    def json(self, name: str) -> dict[str, Any] | None:
        """The content of a JSON file, an object; None where the checkpoint has no such file.

        Raises UserError for a file that is not a JSON object.
        """
        path = self.file(name)
        if path is None:
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise self.error(f"{name} is not a JSON object; download it again")
        return content

    def names(self) -> list[str]:
        """The names of all files; of those in the cache, where the hub cannot be reached or refuses."""
        if self.repository is not None:
            from huggingface_hub import HfApi

            with suppress(Exception):  # callers explain another error by the names, which must not be hidden
                return HfApi().list_repo_files(self.repository, revision=self.commit)
        # not the whole tree: it may be large
        here = (path for pattern in ("*", "language_model/*") for path in self.folder.glob(pattern))
        return sorted(path.relative_to(self.folder).as_posix() for path in here if path.is_file())

    def lacks(self, what: str) -> UserError:
        """The error for a checkpoint without `what`, such as config.json. It names the files that it has."""
        names = self.names()
        foreign = {
            kind: name for name in reversed(names) for end, kind in FOREIGN.items() if name.endswith(end)
        }
        if foreign:
            held = " and ".join(f"{kind} ({name})" for kind, name in sorted(foreign.items()))
            content = f"it holds {held}, which transformers' PyTorch classes do not read"
        else:
            content = (
                f"it holds {', '.join(names[:5])}{' ...' * (len(names) > 5)}" if names else "it is empty"
            )
        return self.error(f"it has no {what}; {content}. Give a checkpoint as save_pretrained writes it")

    def error(self, reason: str) -> UserError:
        """The error for a checkpoint that cannot be loaded. reason: a clause without a full stop."""
        return UserError(f"model.checkpoint={self.name} cannot be loaded: {reason}.")


def find_checkpoint(name: str, revision: str | None = None) -> CheckpointSource:
    """The files of a checkpoint.

    name: `builtin:NAME`, a folder, the folder of a run (its best checkpoint), or a hub id. revision: of a hub
    id. Raises UserError for a name that is none of these, and where the hub cannot be reached or refuses.
    """
    if name.startswith("builtin:"):
        builtin = {f"builtin:{path.parent.name}": path.parent for path in BUILTIN.glob("*/model.safetensors")}
        if name not in builtin:
            raise UserError(
                f"model.checkpoint={name} does not come with asr_exp; there is {', '.join(builtin)}."
            )
        return CheckpointSource(name, builtin[name])
    path = Path(name).expanduser()
    if path.is_dir():
        best = path / "checkpoints" / "best"
        if is_run(path) and not best.is_dir():
            raise UserError(
                f"model.checkpoint={name} is a run without checkpoints/best yet; train it first, or give"
                " another checkpoint."
            )
        source = CheckpointSource(name, best if is_run(path) else path)
        if found := _damage(source.folder, _changed(source.folder)):
            raise source.error(
                f"{found}. Bring back a whole copy of it, or train the run again; where you have changed the"
                f" file on purpose, delete {source.folder / CHECKSUMS}"
            )
        return source
    if path.is_file():
        fairseq = (
            " A fairseq checkpoint has to be converted first, or take its copy on the hub"
            " (facebook/wav2vec2-base ...)."
        )
        raise UserError(
            f"model.checkpoint={name} is a file; give the folder that save_pretrained wrote, or a hub id."
            + fairseq * (path.suffix == ".pt")
        )
    if name.startswith(("/", ".", "~")):
        raise UserError(
            f"model.checkpoint={name} is not a folder; give a folder made by save_pretrained, or a hub id."
        )
    commit = _commit(name, revision)
    return CheckpointSource(name, commit[0], name, commit[1])


def _changed(folder: Path) -> tuple[int, ...]:
    """When a folder, its checksums and its weights were changed, in nanoseconds."""
    paths = (folder, folder / CHECKSUMS, folder / "model.safetensors")
    return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


@functools.cache
def _damage(folder: Path, changed: tuple[int, ...]) -> str | None:
    """What is wrong with the files of a checkpoint that training wrote; None where they are whole."""
    return damage(folder)


# ------------------------------------------------------------------------------------------------------------
# the hub


@functools.cache
def _commit(repository: str, revision: str | None) -> tuple[Path, str]:
    """The folder of the local cache that holds a repository's files, and the commit that its revision names
    now.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        name = (
            " It may be " + "/".join(repository.rstrip("/").split("/")[-2:]) + "."
            if "://" in repository
            else ""
        )
        raise UserError(
            f"model.checkpoint={repository} is neither a folder nor an id on the hub (OWNER/NAME); check"
            f" it.{name}"
        ) from None
    hub.offline_where_unreachable()
    path = _download(repository, repository, "config.json", revision or "main")
    if path is None:
        empty = Path(os.devnull)  # no file of it is in the cache
        raise CheckpointSource(repository, empty, repository, revision or "main").lacks("config.json")
    return path.parent, path.parent.name


def _download(name: str, repository: str, file: str, revision: str | None) -> Path | None:
    """The path of a file of the hub in the local cache; None where the repository has no such file.

    Without a connection, the files in the cache count as all files of a known commit.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, file, revision=revision)
    fixed = revision is not None and len(revision) == 40
    if fixed and cached is not None:
        return Path(cached) if isinstance(cached, str) else None  # or a mark that there is no such file
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as why:
        if isinstance(why, EntryNotFoundError) and not isinstance(why, LocalEntryNotFoundError):
            return None
        # Without a connection to the internet only files in the cache can be had. Where the commit is known,
        # it is the file that the cache lacks.
        if fixed and (constants.HF_HUB_OFFLINE or _is_missing(why)):
            return None
        raise _refused(name, why) from why


def _refused(name: str, why: Exception) -> Exception:
    """The error for a checkpoint that could not be downloaded; `why` itself where it is not the hub's."""
    reason = hub.failure(why)
    if reason is None:
        return why
    if hub.unreachable(why):
        return Unreachable(
            f"model.checkpoint={name} cannot be loaded: there is no folder of that name, {reason}."
        )
    first = "there is no folder of that name, and " * _is_missing(why)
    return UserError(f"model.checkpoint={name} cannot be loaded: {first}{reason}.")


def _is_missing(why: Exception) -> bool:
    """Whether the hub answers that there is no such repository, or 404 without saying what is missing."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answer = next((one for one in hub.causes(why) if isinstance(one, HfHubHTTPError)), None)
    if answer is None or isinstance(answer, GatedRepoError | RevisionNotFoundError):
        return False
    return isinstance(answer, RepositoryNotFoundError) or answer.response.status_code == 404
