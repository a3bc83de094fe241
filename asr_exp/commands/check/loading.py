"""The vocabulary and the model that a run would train, as far as they can be loaded."""

from dataclasses import dataclass

from omegaconf import DictConfig

from asr_exp.builders.data import Data, build_tokenizer
from asr_exp.builders.model import build_recogniser, model_settings
from asr_exp.commands.check.findings import FAIL, WARN, Finding
from asr_exp.core.errors import Unreachable, UserError
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.loading import check_checkpoint
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime

# of wav2vec 2.0 and all its descendants, where the model itself cannot be loaded
RATE = 16000  # samples per second
FIELD = 400  # samples that the first frame sees
HOP = 320  # samples from one frame to the next


@dataclass(frozen=True)
class CheckedModel:
    """The tokenizer and the model of a run. recogniser: None where it cannot be loaded; `findings` then say
    why, and rate and frames are those of wav2vec 2.0.
    """

    tokenizer: Tokenizer
    recogniser: Recogniser | None
    findings: list[Finding]

    @property
    def rate(self) -> int:
        """Samples per second of the audio that the model takes."""
        return self.recogniser.extractor.sampling_rate if self.recogniser else RATE

    def frames(self, samples: int) -> int:
        """How many frames the model makes of so many samples."""
        return self.recogniser.frames(samples) if self.recogniser else (samples - FIELD) // HOP + 1


def load_model(config: DictConfig, data: Data, runtime: Runtime) -> CheckedModel:
    """Load the tokenizer and the model of a run.

    Where the model cannot be loaded, a finding says so and the vocabulary is built from the training split,
    so that the transcripts can be checked all the same.
    """
    try:
        check_checkpoint(model_settings(config))
        tokenizer = build_tokenizer(config, data)
        return CheckedModel(tokenizer, build_recogniser(config, tokenizer, runtime), [])
    except UserError as why:
        skipped = Finding(
            WARN if isinstance(why, Unreachable) else FAIL,
            "no-model",
            f"The model part was skipped. {str(why).rstrip('.')}",
            "Frames are counted as wav2vec 2.0 makes them: 50 a second.",
        )
    t = config.tokenizer
    try:
        tokenizer = Tokenizer.build(
            data.texts(["train"]), t.unit, t.inventory, t.score_inventory, t.min_count
        )
        return CheckedModel(tokenizer, None, [skipped])
    except UserError as why:
        no_vocabulary = Finding(FAIL, "no-vocabulary", str(why).rstrip("."))
        return CheckedModel(Tokenizer(["[UNK]", "[PAD]"], t.unit), None, [skipped, no_vocabulary])
