"""Builds a Transcriber of the run or the checkpoint that a config names."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.decoder import build_decoder
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.core.errors import UserError
from asr_exp.core.exit_status import say
from asr_exp.core.files import is_run
from asr_exp.decoding.beam import Beam
from asr_exp.evaluation.decoder_tuning import use_tuned
from asr_exp.inference.chunking import Chunking
from asr_exp.inference.transcriber import Transcriber
from asr_exp.model.pretrained.source import BUNDLE, find_checkpoint
from asr_exp.runs.folder import run_folder
from asr_exp.runs.untrained import trains_nothing
from asr_exp.runtime.distributed import Runtime
from asr_exp.runtime.precision import check_scoring_precision


def load_transcriber(config: DictConfig, runtime: Runtime) -> Transcriber:
    """Load the recogniser that `run=` names: the folder of a run, a fine-tuned CTC checkpoint (a folder or an
    id of the hub) with its own vocabulary, or `torchaudio:NAME`, a bundle of torchaudio.pipelines.

    Without `run=`, the run that has these settings is loaded, or else their model.checkpoint. Raises
    UserError where there is no such recogniser.
    """
    check_scoring_precision(config.evaluate.precision, runtime.device)
    checkpoint = checkpoint_of(config)
    # The transcript of a recording must not depend on the others in its batch, so the network sees no
    # padding, whatever model.padding the run was trained with.
    unpadded = OmegaConf.merge(config, {"model": {"padding": "exact"}})
    assert isinstance(unpadded, DictConfig)
    try:
        source = FineTuned(unpadded, runtime, checkpoint)
        model = source.network
    except UserError as why:
        raise in_terms_of_run(why, config.run) from why
    if config.decode.name == "greedy" and not checkpoint.startswith(BUNDLE) and _has_language_model(source):
        say(
            "",
            f"{checkpoint} comes with a language model, which is not used: decode=beam decode.lm=checkpoint"
            " decodes with it.",
        )
    folder = _run_folder(config)
    decoder = build_decoder(config, source.tokenizer, runtime, folder if is_run(folder) else None)
    if isinstance(decoder, Beam) and config.decode.tune:
        use_tuned(decoder, folder, source.hash, config.evaluate.precision)
    t = config.transcribe
    chunking = Chunking(t.whole_seconds, t.chunk_seconds, t.overlap_seconds)
    return Transcriber(
        model,
        source.tokenizer,
        decoder,
        runtime.device,
        config.trainer.device_seconds,
        chunking,
        config.evaluate.precision,
    )


def checkpoint_of(config: DictConfig) -> str:
    """The checkpoint that `run=` or the settings name: a folder, or an id of the hub.

    Raises UserError where the run has no checkpoint yet, or the settings lead to none.
    """
    folder = _run_folder(config)
    if (best := folder / "checkpoints" / "best").is_dir():
        return str(best)
    if is_run(folder) and not trains_nothing(config):
        raise UserError(
            f"{folder} has no checkpoints/best yet; its training has not come to its first evaluation."
        )
    if config.run and not is_run(folder):
        return config.run
    if config.model.checkpoint and config.model.head == "keep":
        return config.model.checkpoint
    raise UserError(
        f"These settings lead to {folder}, which holds no trained model; train it first, or give run=FOLDER."
    )


def _run_folder(config: DictConfig) -> Path:
    """The folder that `run=` names (it need not be a run), or else the run folder of the settings."""
    return Path(config.run).expanduser() if config.run else run_folder(config)


def _has_language_model(source: FineTuned) -> bool:
    """Whether a checkpoint has pyctcdecode's alphabet.json, which stands beside a language model."""
    return find_checkpoint(source.checkpoint, source.revision).file("alphabet.json") is not None


def in_terms_of_run(error: UserError, run: str | None) -> UserError:
    """An error about model.checkpoint, reworded for a checkpoint that was given as `run=`; the same error
    where `run` is None.
    """
    if not run:
        return error
    message = (
        str(error)
        .replace("model.checkpoint=", "run=")
        .replace(" cannot keep its head: ", " is no fine-tuned recogniser: ")
        .replace(
            "Use model.head=new, or give another checkpoint.",
            "Fine-tune it first (model=hf model.checkpoint=...), or give another.",
        )
    )
    return UserError(message)
