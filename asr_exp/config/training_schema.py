"""The sections of keys that say how a run is trained, and where its figures are sent."""

from dataclasses import dataclass

from asr_exp.config.key import key


@dataclass
class Optimizer:
    name: str = key("adamw", "optimizer: adamw, sgd, or a plugin's")
    lr: float = key(1e-4, "peak learning rate", above=0)
    betas: list[float] = key([0.9, 0.999], "AdamW's moment decays")
    eps: float = key(1e-8, "AdamW's epsilon", above=0)
    weight_decay: float = key(0.0, "decoupled weight decay (not on biases and norms)", minimum=0)
    momentum: float = key(0.9, "SGD's momentum", minimum=0, maximum=1)
    lr_scale: dict[str, float] = key({}, "learning-rate factor by parameter name pattern: {lm_head.*: 10}")
    clip_norm: float | None = key(1.0, "largest global gradient norm (null: no clipping)", above=0)


@dataclass
class Schedule:
    name: str = key("linear", "linear, cosine, constant, tri-stage, or a plugin's")
    warmup_steps: int | None = key(
        None, "steps to the peak learning rate (null: warmup_ratio of all steps)", minimum=0
    )
    warmup_ratio: float = key(0.1, "share of all steps to the peak learning rate", minimum=0, maximum=1)
    hold_ratio: float = key(0.4, "tri-stage: share of all steps at the peak", minimum=0, maximum=1)
    final_scale: float = key(
        0.0, "last learning rate, as a share of the peak (tri-stage: 0.05)", minimum=0, maximum=1
    )


@dataclass
class Trainer:
    max_steps: int | None = key(None, "optimiser steps (with max_epochs: whichever ends first)", minimum=0)
    max_epochs: float | None = key(None, "passes over the training split", above=0)
    batch_seconds: float | None = key(
        200.0, "audio per optimiser step, in seconds, all ranks together", above=0
    )
    batch_utterances: int | None = key(
        None, "utterances per optimiser step, all ranks together, where batch_seconds is null", minimum=1
    )
    device_seconds: int | float | str = key(
        "auto",
        "audio per forward pass on one device, in seconds; more per step is accumulated (auto: what fits into"
        " the memory of a GPU, and 100 on a CPU)",
        above=0,
        word="auto",
    )
    eval_every: int | None = key(None, "steps between evaluations on dev (null: once an epoch)", minimum=1)
    save_every: int | str = key(
        "10min",
        "at most so much training is lost when a run is killed: a time (10min, 30s, 1h) or a number of steps"
        " (500) between checkpoints, besides those at evaluations; kill -9 and power cuts included",
        choices=("a time (10min, 30s, 1h)", "a number of steps (500)"),
        pattern=r"0*[1-9]\d*|(?=.*[1-9])\d+(\.\d+)?(s|min|h)",
    )
    log_every: int = key(10, "steps between writes of the losses kept on the device", minimum=1)
    devices: int = key(1, "processes on this machine (under torchrun: torchrun's own)", minimum=1)
    strategy: str = key(
        "ddp",
        "several devices: ddp (each has all weights) or fsdp (each has a part: models of a billion"
        " parameters)",
        choices=("ddp", "fsdp"),
    )
    device: str = key(
        "auto",
        "auto, cpu, cuda, cuda:N (the N-th GPU, from 0 on)",
        choices=("auto", "cpu", "cuda", "cuda:N"),
        pattern=r"auto|cpu|cuda(:\d+)?",
    )
    precision: str = key(
        "auto",
        "auto (bf16 where the device has it, fp16 on Volta and Turing, else fp32), fp32, bf16, fp16",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    tf32: bool = key(
        False, "GPU: compute what is in fp32 in TF32, products and convolutions (false: in IEEE fp32)"
    )
    deterministic: bool = key(
        False,
        "CUDA: deterministic algorithms alone, so that the same command gives the same numbers to the bit;"
        " slower, by how much depends on the card and the model (a CPU always does)",
    )
    loss_reduction: str = key(
        "mean",
        "an utterance's loss: mean over its labels, or sum (a batch's: their mean)",
        choices=("mean", "sum"),
    )
    gradient_checkpointing: bool = key(
        False, "recompute activations in the backward pass: less memory, about 30 % slower"
    )
    compile: bool = key(
        False, "CUDA: torch.compile the encoder's layers up to and after attention (not yet tried on a GPU)"
    )
    ema: float | None = key(
        None, "decay of a moving average of the weights, which is then what is scored", minimum=0, maximum=1
    )
    average: int = key(1, "average the weights of the last N evaluations at the end", minimum=1)
    select: str = key(
        "best",
        "the weights that are scored: best (by dev) or last (the last step's)",
        choices=("best", "last"),
    )
    metric: str = key(
        "auto",
        "dev score by which the best checkpoint, patience and pruning go: dev.wer, dev.cer, dev.per, dev.loss"
        " (auto: dev.per for phones, dev.cer where a language is written without spaces, else dev.wer)",
        choices=("auto", "dev.wer", "dev.cer", "dev.per", "dev.loss"),
    )
    patience: int | None = key(None, "stop after N evaluations without a better dev score", minimum=1)
    shortest_first: bool = key(False, "first epoch from short to long utterances (SortaGrad)")
    examples: int = key(3, "hypotheses shown at each evaluation", minimum=0)
    profile: int = key(
        0,
        "profile so many steps, from the fourth on: profile.txt and profile.json in the run folder",
        minimum=0,
    )
    feature_cache_gb: float = key(
        10.0,
        "CPU: room on the disk for what a frozen front end makes of the clips, reused from the second "
        "epoch on and by other runs (0: none)",
        minimum=0,
    )
    workers: int | None = key(None, "threads that decode audio (null: one a core)", minimum=1)


@dataclass
class Tracking:
    name: str = key("wandb", "wandb, tensorboard, none, or a plugin's")
    project: str = key("asr_exp", "W&B project")
    entity: str | None = key(None, "W&B entity (user or team)")
    group: str | None = key(None, "W&B group")
    tags: list[str] = key([], "W&B tags")
    audio_examples: int = key(8, "rows of the table of hypotheses that carry audio", minimum=0)
