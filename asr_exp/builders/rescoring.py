"""A checkpoint that is there and a split to score it on: what `evaluate` does, and a run that trains
nothing.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.data import Data, build_data, build_split, check_unit, own_data, same_data
from asr_exp.builders.decoder import build_decoder, build_protocol
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.plan import check_vocabulary
from asr_exp.data.prepare import Split
from asr_exp.decoding.beam import Beam
from asr_exp.evaluation.decoder_tuning import tune_on_dev
from asr_exp.evaluation.emission_cache import EmissionStore
from asr_exp.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from asr_exp.runs.results import read_result
from asr_exp.runtime.distributed import Runtime

# What result.json says of the training of a checkpoint that was scored as it is.
NO_TRAINING = {
    "steps": 0,
    "skipped_steps": 0,
    "epochs": 0.0,
    "audio_seconds": 0.0,
    "wall_seconds": 0.0,
    "audio_seconds_per_second": 0.0,
}


def read_split(config: DictConfig, split: str, source: FineTuned, runtime: Runtime) -> Data:
    """One split of a dataset after the text rules, with a word on what the checkpoint's vocabulary lacks of
    it. Raises UserError.
    """
    check_unit(config, source.tokenizer)
    alone = config.copy()
    alone.dataset.only = split
    data = build_data(alone)
    check_vocabulary(config, data, source.tokenizer, [split], runtime.main)
    return data


class Scoring:
    """A split, by the text rules and the decoder of a config, and the protocol of its score. Every rank makes
    one.

    folder: the run's, where language models, tuned weights and emissions are kept. Raises UserError for what
    cannot be had.
    """

    def __init__(
        self, config: DictConfig, folder: Path, source: FineTuned, data: Data, split: str, runtime: Runtime
    ):
        self.config = config
        self.folder = folder
        self.source = source
        self.runtime = runtime
        with source.held():
            self.decoder = build_decoder(config, source.tokenizer, runtime, folder)
        self.split = build_split(config, data, split, source.tokenizer, source.outline, runtime.main)
        emissions = EmissionStore(folder, source.hash, config.model.padding, config.trainer.device_seconds)
        if isinstance(self.decoder, Beam) and config.decode.tune:
            tune_on_dev(self.decoder, emissions, self._dev, lambda: source.network, runtime)
        self.protocol = build_protocol(config, data, self.split, self.decoder)
        self.cache = emissions.open(self.split, runtime.device)
        self.network = None if runtime.broadcast(self.cache.complete) else source.network

    def run(self, path: Path, examples: int) -> Evaluation:
        """Score the split and write its hypotheses; what the network says of it is kept in the folder, and
        said once.
        """
        t = self.config.trainer
        settings = EvaluationSettings(t.device_seconds, t.loss_reduction, path, examples)
        return evaluate(self.network, self.split, self.decoder, self.runtime, settings, self.cache)

    def _dev(self) -> Split:
        own = own_data(self.config, self.folder, "dev")
        if self.split.name == "dev" and same_data(self.config, self.folder) and own.text == self.config.text:
            return self.split
        return build_split(
            own, build_data(own), "dev", self.source.tokenizer, self.source.outline, self.runtime.main
        )


def untrained_result(folder: Path, scoring: Scoring, summary: dict[str, Any]) -> dict[str, Any]:
    """What result.json says of a checkpoint that was scored as it is: this score, beside those of other
    splits by the same weights.
    """
    before = read_result(folder) or {}
    checkpoint = scoring.source.identity()
    split = scoring.split.name
    others = (
        dict(before.get("splits") or {})
        if (before.get("checkpoint") or {}).get("hash") == checkpoint["hash"]
        else {}
    )
    protocol = before["protocol"] if "test" in others and split != "test" else scoring.protocol
    return {
        "checkpoint": checkpoint,
        "protocol": protocol,
        "best": None,
        "splits": {**others, split: summary},
        "train": NO_TRAINING,
    }
