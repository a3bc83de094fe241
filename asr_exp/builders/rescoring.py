"""Score a checkpoint on a split without training it: for `evaluate`, and for a run of no steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from asr_exp.builders.data import Data, build_data, build_split, check_unit, own_data, same_data
from asr_exp.builders.decoder import build_decoder, build_protocol
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.plan import check_vocabulary
from asr_exp.builders.score_rules import build_score_rules
from asr_exp.data.prepare import Split
from asr_exp.decoding.beam import Beam
from asr_exp.evaluation.decoder_tuning import tune_on_dev
from asr_exp.evaluation.emission_cache import EmissionStore
from asr_exp.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from asr_exp.evaluation.speed import machine
from asr_exp.model.forward_passes import pass_seconds
from asr_exp.runs.environment import processor
from asr_exp.runs.results import OF_THE_SPLIT, read_hypotheses, read_result
from asr_exp.runtime.distributed import Runtime

# The section `train` of result.json, for a checkpoint that was scored without training.
NO_TRAINING = {
    "steps": 0,
    "skipped_steps": 0,
    "epochs": 0.0,
    "audio_seconds": 0.0,
    "wall_seconds": 0.0,
    "audio_seconds_per_second": 0.0,
}


def read_split(config: DictConfig, split: str, source: FineTuned, runtime: Runtime) -> Data:
    """Read one split of the dataset, and report which of its characters the checkpoint's vocabulary lacks.

    Raises UserError where the split cannot be read, and where the vocabulary has next to nothing of it.
    """
    check_unit(config, source.tokenizer)
    data = build_data(config, only=split, fingerprint=runtime.main)
    check_vocabulary(config, data, source.tokenizer, [split], runtime.main)
    return data


class Scoring:
    """A checkpoint, a split and a decoder, ready to be scored, and the protocol of the score. Every rank
    makes one.
    """

    def __init__(
        self, config: DictConfig, folder: Path, source: FineTuned, data: Data, split: str, runtime: Runtime
    ):
        """Build the decoder and the split, and tune the decoder where that is asked for.

        Args:
            config: the whole config.
            folder: the run's, which keeps language models, tuned weights and emissions.
            source: the checkpoint.
            data: the corpus, with the split.
            split: train, dev or test.
            runtime: the ranks.

        Raises:
            UserError: the decoder cannot be built, or not one utterance can be used.
        """
        self.config = config
        self.folder = folder
        self.rules = build_score_rules(config)
        self.source = source
        self.runtime = runtime
        self.speed: dict[str, Any] | None = None
        with source.held():
            self.decoder = build_decoder(config, source.tokenizer, runtime, folder)
        self.split = build_split(config, data, split, source.tokenizer, source.outline, runtime.main)
        emissions = EmissionStore(
            folder,
            source.hash,
            config.model.padding,
            config.trainer.device_seconds,
            config.evaluate.precision,
        )
        if isinstance(self.decoder, Beam) and config.decode.tune:
            tune_on_dev(self.decoder, emissions, self._dev, lambda: source.network, runtime)
        self.protocol = build_protocol(config, data, self.split, self.decoder)
        measured = config.evaluate.rtfx
        self.cache = None if measured else emissions.open(self.split, runtime.device)
        complete = bool(self.cache and self.cache.complete)
        kept = None if complete or measured or not runtime.main else self._kept()
        self.kept: dict[str, Any] | None = runtime.broadcast(kept)
        self.network = None if runtime.broadcast(complete) or self.kept else source.network

    def run(self, path: Path, examples: int) -> Evaluation:
        """Score the split. path: the file to write its hypotheses to; examples: how many the result shows.

        The emissions are kept in the run folder: another score of the split runs no forward pass.
        """
        trainer = self.config.trainer
        settings = EvaluationSettings(
            trainer.device_seconds,
            trainer.loss_reduction,
            path,
            examples,
            self.config.evaluate.precision,
            self.rules,
            self.config.evaluate.rtfx,
        )
        evaluation = evaluate(
            self.network, self.split, self.decoder, self.runtime, settings, self.cache, self.kept
        )
        if evaluation.speed:
            device = self.runtime.device
            name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
            seconds = pass_seconds(trainer.device_seconds, device)
            self.speed = evaluation.speed | machine(self.runtime, name, settings.precision, seconds)
        return evaluation

    def speeds(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """The entry `speed` of result.json, with the speed of this score, where it was measured, beside those
        of other splits. before: what the result.json had.
        """
        known = {**(before.get("speed") or {}), **({self.split.name: self.speed} if self.speed else {})}
        return {"speed": known} if known else {}

    def _kept(self) -> dict[str, Any] | None:
        """The hypotheses that the run keeps of the split, where they were made alike but for the rules of
        the score; None where the network has to run.
        """
        path = self.folder / f"hypotheses.{self.split.name}.jsonl"
        test = self.folder / "hypotheses.test.jsonl"
        own, weights = read_result(self.folder) or {}, self.folder / "checkpoints" / "best"
        unlike = {
            key
            for key in {**own.get("protocol", {}), **self.protocol}
            if own.get("protocol", {}).get(key) != self.protocol.get(key)
        }
        if unlike - {*OF_THE_SPLIT, "score", "scoring"} or not {"score", "scoring"} & unlike:
            return None
        if own.get("status") != "finished" or not same_data(self.config, self.folder) or not path.is_file():
            return None
        # those of dev are written just before the weights are, those of test after all training
        written = max(one.stat().st_mtime for one in {path, test} if one.is_file())
        if any(file.stat().st_mtime > written for file in weights.glob("*.safetensors")):
            return None
        lines = read_hypotheses(path)
        whole = list(self.split.utterances.ids()) == list(lines)
        usable = whole and all(
            line.get("nbest") is None
            and line["seconds"] == round(float(self.split.seconds[index]), 3)
            and line.get("raw_reference") == self.split.original_reference(index)
            and "raw_hypothesis" in line
            for index, line in enumerate(lines.values())
        )
        return lines if usable else None

    def _dev(self) -> Split:
        own = own_data(self.config, self.folder)
        if self.split.name == "dev" and same_data(self.config, self.folder) and own.text == self.config.text:
            return self.split
        return build_split(
            own,
            build_data(own, only="dev"),
            "dev",
            self.source.tokenizer,
            self.source.outline,
            self.runtime.main,
        )


def untrained_result(folder: Path, scoring: Scoring, summary: dict[str, Any]) -> dict[str, Any]:
    """The entries of result.json for a checkpoint that was scored without training: this score, beside the
    scores of other splits with the same weights.
    """
    before = read_result(folder) or {}
    checkpoint = scoring.source.identity()
    split = scoring.split.name
    same_weights = (before.get("checkpoint") or {}).get("hash") == checkpoint["hash"]
    others = dict(before.get("splits") or {}) if same_weights else {}
    protocol = before["protocol"] if "test" in others and split != "test" else scoring.protocol
    return {
        "checkpoint": checkpoint,
        "protocol": protocol,
        "best": None,
        "splits": {**others, split: summary},
        "train": NO_TRAINING,
    }
