"""The sections of keys that belong to one command: nothing in them can change what is learned
(evaluate.precision can change a score).
"""

from dataclasses import dataclass
from typing import Any

from asr_exp.config.key import key


@dataclass
class TableOptions:
    name: str | None = key(
        None,
        "name of the table and its folder (null: the experiments' folder, or the keys of the grid)",
        folder="my-table",
    )
    rows: Any = key(
        None, "keys that make the rows (null: all that are swept and that nothing else is made of)"
    )
    columns: Any = key(None, "keys that make columns, for a grid (null: a list with one row a line)")
    mean_over: Any = key("seed", "swept keys whose runs are averaged")
    trained_on: str | None = key(
        None,
        "take the runs of this dataset, or language, for the cells of all others, where `evaluate` has scored"
        " them (null: a cell without a run takes the only one that was scored on its dataset)",
    )
    cells: str | None = key(
        None, "read the runs' scores from this file, which `keep` wrote, not from run folders"
    )
    keep: str | None = key(
        None, "write the runs' scores to this file: all that is needed to make the table again"
    )
    out: str | None = key(None, "folder of the table's files (null: OUTPUT_ROOT/tables/NAME)")
    into: str | None = key(
        None, "rewrite the table's block in this page, between <!-- asr_exp table NAME --> and <!-- end -->"
    )
    check: bool = key(
        False, "write nothing; exit status 1 where the block of `into` is not what would be written"
    )


@dataclass
class CheckOptions:
    audio: str = key(
        "sample",
        "check: clips to decode: none (headers alone), a sample, all",
        choices=("none", "sample", "all"),
    )
    clips: int = key(200, "check: clips of the sample", minimum=1)
    steps: bool = key(
        True, "check: really run a median and the worst forward and backward pass, for memory and time"
    )


@dataclass
class EvaluateOptions:
    precision: str = key(
        "fp32",
        "the network in scoring, transcribe, align and serve: fp32 (on a GPU IEEE), tf32, bf16, fp16; all but"
        " fp32 are part of a score's protocol",
        choices=("fp32", "tf32", "bf16", "fp16"),
    )
    rtfx: bool = key(
        False,
        "evaluate: run the network even where what it says of the split is kept, with a pass of warm-up, and"
        " measure audio seconds by wall seconds (RTFx)",
    )


@dataclass
class AlignOptions:
    text: str | None = key(
        None, "align: what the one recording of files= says (null: the text beside it, a.txt or a.lab)"
    )
    against: str = key(
        "auto",
        "align: score against TIMIT's own times: auto (where they stand beside the audio), timit (they must),"
        " none",
        choices=("auto", "timit", "none"),
    )


@dataclass
class ExportOptions:
    onnx: bool = key(
        False, "export: add onnx/model.onnx, checked against the model (pip install 'asr_exp[onnx]')"
    )
    int8: bool = key(
        False,
        "export: add onnx/model_quantized.onnx too, its matrices in 8 bits, and measure what that costs",
    )
    clips: int = key(32, "export: dev recordings that the ONNX files are compared on", minimum=0)
    push: str | None = key(None, "export: send the folder to this repository of the hub, ORGANISATION/NAME")
    private: bool = key(False, "export: make the repository a private one, where it is new")


@dataclass
class TranscribeOptions:
    whole_seconds: float = key(
        120.0, "recordings up to this long go through the network in one piece", above=0
    )
    chunk_seconds: float = key(30.0, "longer ones go through it in chunks this long", minimum=4)
    overlap_seconds: float = key(
        10.0, "what a chunk has in common with the one before it, heard twice", minimum=1
    )


@dataclass
class ServeOptions:
    host: str = key("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in")
    port: int = key(8000, "port to listen on (0: any that is free)", minimum=0, maximum=65535)
    token: str | None = key(
        None,
        "what requests must bear: 'Authorization: Bearer TOKEN'; ${oc.env:NAME} takes it from the"
        " environment",
    )
    max_megabytes: float = key(25.0, "larger recordings are refused (413)", above=0)
    max_seconds: float = key(600.0, "longer recordings and sessions are refused (413)", above=0)
    queue: int = key(
        256,
        "requests under way at once, from their first byte to their answer; more are told to come again"
        " (503)",
        minimum=1,
    )
    queue_seconds: float = key(
        3600.0,
        "audio that waits at once, in seconds (115 MB an hour); more is told to come again (503)",
        above=0,
    )
    streams: int = key(16, "WebSocket sessions at once", minimum=1)
    timeout: float = key(60.0, "seconds from a request's head to its answer", above=0)
    batch_seconds: float = key(
        30.0, "audio recognised together; more takes more memory, and is faster on a GPU", above=0
    )
    window: float = key(
        0.01, "seconds that the first recording of a batch waits for company", minimum=0, maximum=10
    )
    decoders: int = key(2, "threads that decode what is sent", minimum=1)


@dataclass
class SweepOptions:
    name: str | None = key(
        None,
        "folder of the record, under sweeps/ (null: made from the command, so that the same one goes on)",
        folder="my-sweep",
    )
    trials: int = key(
        20, "optuna, random: trials of the study, all workers and resumptions together", minimum=1
    )
    sampler: str = key(
        "tpe",
        "optuna: tpe (tree-structured Parzen estimator), gp (Gaussian process), random",
        choices=("tpe", "gp", "random"),
    )
    metric: str | None = key(
        None,
        "what is minimised: SPLIT.RATE such as dev.cer (null: the best dev WER or PER; evaluate: the"
        " split's)",
    )
    prune: bool = key(
        True, "end a trial whose dev score is worse than the median of the others at the same step"
    )
    startup: int = key(
        5, "trials drawn at random before the sampler learns, and finished before one is pruned", minimum=1
    )
    seed: int = key(0, "seeds the sampler", minimum=0)
    storage: str | None = key(
        None, "URL of an Optuna storage, or a journal file .log (null: sweeps/NAME/study.db)"
    )
    workers: int = key(
        1,
        "processes that search at once, started by hydra/launcher=joblib, submitit_slurm or submitit_local",
        minimum=1,
    )
    retry: bool = key(False, "try the trials that failed once more")
    trial: int | None = key(None, "the trial that a run is; set by the sweep")


@dataclass
class ReportOptions:
    audio: int = key(
        20,
        "utterances with sound and emissions: those with the most errors, and every fourth at random",
        minimum=0,
    )
    utterances: list[str] = key(
        [], "ids of the utterances to have with sound and emissions (format=png: to draw) instead"
    )
    suspects: int = key(20, "suspected label errors that are listed, those of training with sound", minimum=0)
    width: int = key(1600, "format=png: width of a picture in pixels", minimum=200, maximum=10000)
