"""The rows of the comparison: what is run, on which model, in which precision."""

from dataclasses import dataclass
from typing import Any

ARMS = ("hf", "hf-tuned", "ours")

# Settings of wav2vec 2.0 that differ from transformers' defaults, which are those of the base model.
MODELS: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "conv_dim": [160] * 7,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "conv_dim": [32] * 7,
        "num_conv_pos_embeddings": 32,
        "num_conv_pos_embedding_groups": 4,
    },
    "learner": {
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 384,
        "conv_dim": [64, 64, 96, 96],
        "conv_kernel": [64, 8, 4, 4],
        "conv_stride": [16, 5, 2, 2],
        "num_feat_extract_layers": 4,
        "conv_bias": True,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
}


@dataclass(frozen=True)
class Row:
    """One row. kind: train, evaluate, start (cold, to the end of the first step), memory (of an evaluation,
    at 1 x and 10 x).

    batch: utterances an optimiser step; steps: of an epoch; a row that trains nothing has batch * steps
    utterances to score.
    """

    name: str
    kind: str
    model: str
    precision: str
    batch: int
    steps: int
    epochs: int = 1
    device: str = "cpu"
    rounds: int | None = None  # at the most; None: as many as asked
    quick: bool = False  # no gate of learning

    @property
    def utterances(self) -> int:
        return self.batch * self.steps


ROWS = [
    Row("base-bf16", "train", "base", "bf16", 6, 2, 3),
    Row("base-fp32", "train", "base", "fp32", 6, 2, 2),
    Row("small-bf16", "train", "small", "bf16", 16, 4, 3),
    Row("small-fp32", "train", "small", "fp32", 16, 4, 3),
    Row("evaluate-fp32", "evaluate", "small", "fp32", 8, 20),
    Row("evaluate-bf16", "evaluate", "small", "bf16", 8, 20),
    Row("start", "start", "tiny", "fp32", 4, 400),
    Row("memory", "memory", "tiny", "fp32", 4, 400, rounds=2),
    Row("cuda-base-bf16", "train", "base", "bf16", 32, 20, 3, "cuda"),
    Row("cuda-large-bf16", "train", "large", "bf16", 16, 20, 3, "cuda"),
    Row("cuda-evaluate-bf16", "evaluate", "base", "bf16", 32, 40, 1, "cuda"),
    Row("cuda-start", "start", "tiny", "bf16", 32, 50, 1, "cuda"),
]
QUICK = [
    Row("quick-train", "train", "tiny", "fp32", 4, 3, 3, quick=True),
    Row("quick-evaluate", "evaluate", "tiny", "fp32", 4, 6, quick=True),
]


def rows_of(device: str) -> list[Row]:
    """The rows a machine runs unless told otherwise."""
    return [row for row in ROWS if row.device == device]
