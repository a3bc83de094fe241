"""A trained recogniser, a run or a checkpoint, made ready to transcribe."""

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


def load_transcriber(config: DictConfig, runtime: Runtime) -> Transcriber:
    """The recogniser that `run=` names: a run's folder, a CTC checkpoint (a folder, or a hub id) with its own
    vocabulary, or `torchaudio:NAME`, a bundle of torchaudio.pipelines.

    Without `run=`, the run that the settings lead to, or else their model.checkpoint. Raises UserError where
    there is none.
    """
    chunking, checkpoint = config.transcribe, checkpoint_of(config)
    # A transcript is to depend on its recording alone, not on what else is asked for: there is no padding for
    # it to see.
    exact = OmegaConf.merge(config, {"model": {"padding": "exact"}})
    assert isinstance(exact, DictConfig)
    try:
        source = FineTuned(exact, runtime, checkpoint)
        model = source.network
    except UserError as why:
        raise as_asked(why, config.run) from why
    if config.decode.name == "greedy" and not checkpoint.startswith(BUNDLE) and _has_language_model(source):
        say(
            "",
            f"{checkpoint} comes with a language model, which is not used: decode=beam decode.lm=checkpoint"
            " decodes with it.",
        )
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
    decoder = build_decoder(config, source.tokenizer, runtime, folder if is_run(folder) else None)
    if isinstance(decoder, Beam) and config.decode.tune:
        use_tuned(decoder, folder, source.hash)
    how = Chunking(chunking.whole_seconds, chunking.chunk_seconds, chunking.overlap_seconds)
    return Transcriber(model, source.tokenizer, decoder, runtime.device, config.trainer.device_seconds, how)


def _has_language_model(source: FineTuned) -> bool:
    return find_checkpoint(source.checkpoint, source.revision).file("alphabet.json") is not None


def as_asked(error: UserError, run: str | None) -> UserError:
    """What is wrong with a checkpoint, by the key that it was given as."""
    if not run:
        return error
    told = (
        str(error)
        .replace("model.checkpoint=", "run=")
        .replace(" cannot keep its head: ", " is no fine-tuned recogniser: ")
    )
    return UserError(
        told.replace(
            "Use model.head=new, or give another checkpoint.",
            "Fine-tune it first (model=hf model.checkpoint=...), or give another.",
        )
    )


def checkpoint_of(config: DictConfig) -> str:
    """The checkpoint that `run=` or the settings name: a folder, or a hub id. Raises UserError where there is
    none.
    """
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
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
