"""One script for a borrowed card: is asr_exp right on a GPU, and how fast is it there?

python -m benchmarks.cuda [--out FOLDER] [--parts NAME,NAME] [--seconds 480] [--quick] [--device auto]

--out      where cuda.json and cuda.html go: $OUT if that is set, else outputs/cuda. Both are written again
           after every row, so that a run that is cut short leaves what it has found.
--parts    which parts (below); all unless told
--seconds  after which the whole is ended; each part has a budget of its own besides, which grows with it
--quick    tiny networks and a few seconds of noise: does the script itself run?
--device   cuda or cpu; auto takes the card where there is one

Nothing is downloaded: networks have random weights, drawn on the card, and hear noise. Each part is a process
of its own; one that fails is recorded with its traceback and the rest goes on. Exit status 1 where a part
failed or was cut, or something that was tested does not hold.

The checkout is run as it lies, not installed (pyproject.toml asks for a newer torch than such a machine may
have). It takes Python 3.11 or newer and, besides torch (2.11 or newer, with CUDA) and numpy:

    transformers 5.24.0          13.5 MB
    rapidfuzz 3.14.6              3.2 MB
    soundfile 0.14.0              1.3 MB   (needs cffi 2.1.1, 0.2 MB, and pycparser 3.12, 0.1 MB)
    soxr 1.1.0                    0.2 MB
    hydra-core 1.3.8              0.2 MB
    omegaconf 2.3.1               0.1 MB
    antlr4-python3-runtime 4.9.3  0.1 MB   (`pip wheel` makes it: there is only source)

19 MB as wheels for Python 3.12 on x86-64. transformers needs tokenizers >= 0.23.1 (3.4 MB),
huggingface-hub >= 1.31, safetensors, regex, typer, pyyaml, packaging and tqdm, which a machine with any
transformers 5 has; asr_exp itself needs jinja2. datasets, wandb and torchaudio are not needed.
`benchmarks/CUDA.md` shows the commands.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

BEGAN = time.monotonic()
RESERVE = 5.0  # seconds at the end for the page


def main(arguments: Sequence[str]) -> int:
    from benchmarks.cuda.names import NAMES

    listed = "\n".join(f"  {name:12} {title}" for name, title in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda",
        description=f"{__doc__}\nparts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    for name, default in (
        ("--out", os.environ.get("OUT") or "outputs/cuda"),
        ("--parts", ""),
        ("--device", "auto"),
    ):
        parser.add_argument(name, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=480.0, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    names = asked.parts.split(",") if asked.parts else list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"--parts={unknown[0]} is not a part; there are {', '.join(NAMES)}.")
    if asked.device not in ("auto", "cuda", "cpu"):
        parser.error(f"--device={asked.device} is none of auto, cuda, cpu.")
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # whoever looks for a card in this process must not take it
    }
    with tempfile.TemporaryDirectory(prefix="asr-exp-cuda-") as scratch:
        from benchmarks.cuda.report import run_all

        end = BEGAN + asked.seconds - RESERVE
        return run_all(names, asked.device, asked.quick, Path(scratch), Path(asked.out), BEGAN, end)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
