"""Make a folder of a run that others can use: export run=FOLDER out=FOLDER export.onnx=true.

The folder is one of transformers (weights, config, processor), with a model card made of the run's own files:
data, training, scores with their intervals, protocol, command. export.onnx=true adds an ONNX file, which is
compared with the model before it is kept; export.int8=true one in 8 bits, and what that costs on dev
recordings. export.push=ORGANISATION/NAME sends it all to the hub.
"""

import os
import re
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import build_data
from asr_exp.builders.transcriber import checkpoint_of, in_terms_of_run
from asr_exp.commands.export.facts import Facts
from asr_exp.commands.export.model_card import model_card
from asr_exp.commands.export.onnx_export import require_onnx, session, write_int8, write_onnx
from asr_exp.commands.export.upload import push, require_token
from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run, read_json
from asr_exp.data.audio import decode
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.loading import check_checkpoint, load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.pretrained.source import BUNDLE
from asr_exp.model.pretrained.vocabulary import read_tokenizer
from asr_exp.runs.folder import load_run, run_folder, signature
from asr_exp.runs.results import read_result
from asr_exp.scoring.error_rates import ErrorCounts, word_errors

ONNX, INT8 = "onnx/model.onnx", "onnx/model_quantized.onnx"


def run(config: DictConfig) -> Path:
    """Write the folder, send it to the hub where export.push is set, and return the folder.

    Raises UserError for a folder that cannot be written, a checkpoint that cannot be exported, packages that
    are missing, and what the hub refuses.
    """
    out = _output_folder(config)
    if (config.run or "").startswith(BUNDLE):
        raise UserError(
            f"run={config.run} is torchaudio's; export takes a run's folder, or a checkpoint of transformers."
        )
    if config.export.push:
        require_token(config.export.push)
    if config.export.onnx or config.export.int8:
        require_onnx()
    checkpoint = os.path.expanduser(checkpoint_of(config))
    try:
        check_checkpoint(ModelSettings(checkpoint, config.model.revision, keep_head=True))
    except UserError as error:
        raise in_terms_of_run(error, config.run) from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            summary = _fill(config, checkpoint, out.name, Path(beside))
            files = _move(Path(beside), out)
    except OSError as error:
        raise UserError(
            f"out={config.out} cannot be written ({error.strerror or error}); give another folder."
        ) from error
    if config.export.push:
        message = f"Export of run {(summary.get('run') or checkpoint)} by asr_exp"
        summary["hub"] = push(out, files, config.export.push, config.export.private, message)
    print("Exported")
    for name, text in {"folder": config.out, **summary}.items():
        print(
            textwrap.fill(
                text, 80, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10, break_long_words=False
            )
        )
    return out


def _output_folder(config: DictConfig) -> Path:
    """The folder of out=. Raises UserError where it cannot take an export: it is missing, a file, inside a
    run's folder, or holds something else.
    """
    if not config.out:
        raise UserError("export needs out=FOLDER, where the exported model goes.")
    out = Path(os.path.abspath(os.path.expanduser(config.out)))
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.exists() and not out.is_dir():
        raise UserError(f"out={config.out} is a file; give a folder.")
    if names - {".git", ".gitattributes"} and not _exported(out):
        raise UserError(
            f"out={config.out} holds other things than a model that export wrote; give a new folder."
        )
    if any((folder / "config.yaml").is_file() for folder in (out, *out.parents[:2])):
        raise UserError(f"out={config.out} is inside a run's folder; give one of its own.")
    return out


def _exported(folder: Path) -> bool:
    """Whether a folder holds a model that this command wrote: its card has the tag asr_exp."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return bool(re.search(r"^\s*- asr_exp$", text.partition("\n---\n")[0], re.MULTILINE))


def _move(beside: Path, out: Path) -> list[str]:
    """Move the files of `beside` into `out` and return their paths in it. Models of an earlier export are
    deleted there; everything else (.git) stays.
    """
    files = sorted(path.relative_to(beside).as_posix() for path in beside.rglob("*") if path.is_file())
    for pattern in ("*.safetensors*", "onnx/model*.onnx*"):
        for old in out.glob(pattern):
            old.unlink()
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(beside / name, out / name)
    return files


def _fill(config: DictConfig, checkpoint: str, name: str, folder: Path) -> dict[str, str]:
    """Write all files of an export and return the lines of its summary, by name.

    checkpoint: what is exported; name: the export's own; folder: where the files go.
    """
    import transformers

    t, ours = config.tokenizer, Path(config.run).expanduser() if config.run else run_folder(config)
    tokenizer = read_tokenizer(checkpoint, config.model.revision, t.unit, t.inventory, t.score_inventory)
    plain = ModelSettings(checkpoint, config.model.revision, keep_head=True, attention="eager")
    network, extractor = load_backbone(plain, len(tokenizer), tokenizer.blank)
    network.save_pretrained(folder)
    transformers.Wav2Vec2Processor(extractor, tokenizer.as_transformers()).save_pretrained(folder)
    extractor.save_pretrained(folder)  # preprocessor_config.json, which other programs look for
    tokenizer.save(folder)  # the processor has written it without what transformers cannot save
    summary = {"size": console.size(sum(path.stat().st_size for path in folder.iterdir()))}
    onnx = (
        _onnx(config, _PlainModel(network, extractor, tokenizer), folder)
        if config.export.onnx or config.export.int8
        else {}
    )
    # The settings it was trained with, whatever overrides this command has.
    settings = load_run(ours) if is_run(ours) else config
    result = read_result(ours) or _unfinished(settings, ours)
    facts = Facts(
        name=(config.export.push or name).rpartition("/")[2],
        where=config.export.push or name,
        model_type=network.config.model_type,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        rate=extractor.sampling_rate,
        sees_mask=bool(extractor.return_attention_mask),
        vocabulary=tokenizer.tokens,
        config=OmegaConf.to_container(settings, resolve=True),  # type: ignore[arg-type]
        result=result,
        environment=read_json(ours / "environment.json") or {},
        evaluations=[one for path in sorted(ours.glob("evaluations/*")) if (one := read_result(path))],
        onnx=onnx,
    )
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    if result:
        summary["run"] = result.get("signature") or ours.name
    return summary | {name: onnx[path] for name, path in (("onnx", ONNX), ("int8", INT8)) if path in onnx}


def _unfinished(config: DictConfig, folder: Path) -> dict[str, Any] | None:
    """A result for a run that was killed before it wrote its result.json; None where the folder is no
    run's.
    """
    if not is_run(folder):
        return None
    return {
        "status": "without a result.json",
        "signature": signature(config),
        "seed": config.seed,
        "versions": {},
    }


# ------------------------------------------------------------------------------------------------------------
# ONNX


@dataclass(frozen=True)
class _PlainModel:
    """A network as transformers runs it, one recording at a time, without the framework's packed batches."""

    network: Any
    extractor: Any
    tokenizer: Tokenizer

    def values(self, samples: np.ndarray) -> np.ndarray:
        """The network's input, (1, samples) float32, from (samples,) int16."""
        scaled = samples.astype(np.float32) / 32768
        return self.extractor(
            scaled, sampling_rate=self.extractor.sampling_rate, return_tensors="np"
        ).input_values

    def text(self, logits: np.ndarray) -> str:
        """The transcript of logits, (1, frames, vocabulary), by the best label of each frame."""
        return self.tokenizer.scored(
            self.tokenizer.decode(torch.unique_consecutive(torch.from_numpy(logits[0].argmax(-1))).tolist())
        )

    @torch.inference_mode()
    def logits(self, values: np.ndarray) -> np.ndarray:
        return self.network(torch.from_numpy(values)).logits.numpy()


def _onnx(config: DictConfig, plain: _PlainModel, folder: Path) -> dict[str, str]:
    """Write the ONNX files and return a sentence on each, by its path in the folder.

    Raises UserError where a file's logits are not the network's.
    """
    network = plain.network
    path, small = folder / ONNX, folder / INT8
    difference = write_onnx(network, path)
    sentences = {
        ONNX: (
            f"{_size(path)}, equal to the model: no logit is off by more than {difference:.1g} of the largest"
        )
    }
    clips = _dev_clips(config, plain) if config.export.clips else []
    if clips:
        sentences[ONNX] += f"; on dev, {_compared(path, plain, clips)}"
    if config.export.int8:
        write_int8(path, small)
        cost = (
            f"on dev, {_compared(small, plain, clips)}"
            if clips
            else "what that costs was not measured, for want of recordings"
        )
        sentences[INT8] = f"{_size(small)}, matrices in 8 bits; {cost}"
    return sentences


def _size(path: Path) -> str:
    return f"{sum(file.stat().st_size for file in path.parent.glob(f'{path.name}*')) / 1e6:.1f} MB"


def _dev_clips(config: DictConfig, plain: _PlainModel) -> list[tuple[np.ndarray, str]]:
    """The first recordings of the run's dev split, as the network's input, with their references; none where
    the split cannot be read.
    """
    try:
        split = build_data(config, only="dev").corpus.splits["dev"][: config.export.clips]
    except UserError:
        return []
    rate, scored = plain.extractor.sampling_rate, plain.tokenizer.scored
    clips = ((decode(one.audio, rate).samples, one.text) for one in split)
    longest = config.dataset.max_eval_seconds
    return [
        (plain.values(samples), scored(plain.tokenizer.target(text)))
        for samples, text in clips
        if samples is not None and 0.1 <= len(samples) / rate <= longest
    ]


def _compared(path: Path, plain: _PlainModel, clips: list[tuple[np.ndarray, str]]) -> str:
    """Part of a sentence: how far an ONNX file's logits are from the network's, how many texts differ, and
    the error rates of both.
    """
    runs = session(path)
    changed = 0
    distances = []
    largest = 0.0
    errors = {"model": ErrorCounts(), "file": ErrorCounts()}
    for values, reference in clips:
        ours, theirs = plain.logits(values), runs.run(["logits"], {"input_values": values})[0]
        distances.append(float(np.abs(theirs - ours).mean()))
        largest = max(largest, float(np.abs(ours).max()))
        texts = {"model": plain.text(ours), "file": plain.text(theirs)}
        changed += texts["model"] != texts["file"]
        errors = {name: counts + word_errors(reference, texts[name]) for name, counts in errors.items()}
    rate = "PER" if plain.tokenizer.unit == "phone" else "WER"
    return (
        f"logits are off by {np.mean(distances) / largest:.1g} of the largest on average, {changed} of"
        f" {console.counted(len(clips), 'text')} differ, {rate} {console.percent(errors['file'].rate)} (the"
        f" model's: {console.percent(errors['model'].rate)})"
    )
