"""The machine: what it is, how fast it multiplies matrices at this moment, and how much multiplying a model
is.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from typing import Any

# rows, inputs and outputs of the probe: a feed-forward layer of the base model over 40 s of audio
PROBED = (2048, 768, 3072)
PACKAGES = ("asr_exp", "torch", "transformers", "datasets", "accelerate", "jiwer", "numpy", "soundfile")


def gemm(precision: str, device: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of a linear layer, over about so many seconds."""
    import torch

    rows, inputs, outputs = PROBED if device == "cpu" else (8 * PROBED[0], 4096, 4096)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight = (torch.ones(n, inputs, dtype=dtype, device=device) for n in (rows, outputs))
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or done < 4:
        for _ in range(1 if device == "cpu" else 20):
            torch.nn.functional.linear(x, weight)
            done += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return 2.0 * rows * inputs * outputs * done / took


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, memory, GPU: nothing that names the machine or its owner."""
    import torch

    from asr_exp.runtime.cores import usable_cores

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {}
    cores = {"processor": processor(), "cores": usable_cores(), "threads": torch.get_num_threads()}
    return {**gpu, **cores, "memory_gib": round(memory / 2**30)}


def processor() -> str:
    """The CPU's name, with the instructions that decide how fast it is in bf16."""
    from asr_exp.runs import environment as this

    if not this.CPUINFO.exists():
        return this.processor()
    there = this.CPUINFO.read_text().split()
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in there]
    return f"{this.processor()} ({', '.join(flags) or 'no AVX2'})"


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def work(config: Any, seconds: Iterable[float], training: bool) -> float:
    """Floating-point operations of a wav2vec 2.0 over clips of these lengths: two for each multiplication of
    the matrices.

    Forward: convolutions, projection, position convolution, the linear layers and attention of each layer,
    the head. Backward is twice the forward again, for all but the frozen convolutions. Padding, norms,
    activations and what is computed anew are not counted.
    """
    front = rest = 0.0
    hidden = config.hidden_size
    layers = config.num_hidden_layers
    inner = config.intermediate_size
    for length in seconds:
        frames, channels = int(length * 16000), 1
        for kernel, stride, width in zip(
            config.conv_kernel, config.conv_stride, config.conv_dim, strict=True
        ):
            frames = (frames - kernel) // stride + 1
            front += 2.0 * frames * kernel * channels * width
            channels = width
        position = config.num_conv_pos_embeddings * hidden * hidden / config.num_conv_pos_embedding_groups
        linear = (
            layers * (4 * hidden * hidden + 2 * hidden * inner)
            + channels * hidden
            + hidden * config.vocab_size
        )
        rest += 2.0 * frames * (position + linear) + layers * 4.0 * frames * frames * hidden
    return front + (3 if training else 1) * rest
