"""A CTC network as an ONNX file, whose logits are compared with the network's own, and such a file in 8
bits.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from asr_exp.core.errors import UserError

TOLERANCE = 1e-4  # how far a logit may be off, as a share of the largest
MAX_BYTES = (
    1.9e9  # of weights in the ONNX file itself; one of more than 2 GB keeps them in a file of their own
)
TRACE_SAMPLES = 16_000  # the length that the network is traced with
CHECK_SAMPLES = (4_000, 9_113, 21_920, 46_400, 112_480)  # other lengths, which the file is checked with


class _Logits(nn.Module):
    """The network as a function of one tensor."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.network(input_values).logits


def require_onnx() -> None:
    """Raises UserError where the packages of the extra `onnx` are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"An ONNX file takes packages that are not installed ({error.name}); type: pip install"
            ' "asr_exp[onnx]".'
        ) from error


def write_onnx(network: Any, path: Path) -> float:
    """Write a CTC network of transformers as an ONNX file that maps `input_values` (batch, samples) to
    `logits` (batch, frames, vocabulary), whatever the batch and the length.

    network: as transformers loads it, without attention mask. A Recogniser's does not do, as its forward pass
    is for batches without padding.

    Returns the largest difference between the file's logits and the network's, as a share of the largest
    logit, over lengths that the network was not traced with. Raises UserError where that is more than
    TOLERANCE; then no file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet(), torch.no_grad():
            _trace(_Logits(network.eval()), path)
        difference = largest_difference(path, network, check_inputs())
        reason = f"its logits are off by {difference:.1g} of the largest"
    except Exception as error:  # the exporter and the runtime raise many of their own
        difference, reason = float("inf"), (str(error).strip().splitlines() or [type(error).__name__])[0]
    if difference <= TOLERANCE:
        return difference
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    raise UserError(
        f"{type(network).__name__} does not make an ONNX file that equals it: {reason.rstrip('.')}. Leave out"
        " export.onnx."
    )


def _trace(model: nn.Module, path: Path) -> None:
    """Write the file by torch.export. The older exporter (dynamo=False, seen with torch 2.12) writes a file
    whose logits are not the model's.
    """
    example, axes = torch.randn(2, TRACE_SAMPLES), {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=["input_values"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
        dynamic_shapes={"input_values": axes},
        external_data=size > MAX_BYTES,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings, which are about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_inputs() -> list[np.ndarray]:
    """Noise that swells and fades, (1 or 3, samples) float32 each, of lengths the network was not traced
    with.
    """
    rng = np.random.default_rng(0)
    shapes = [*((1, length) for length in CHECK_SAMPLES), (3, CHECK_SAMPLES[1])]
    return [
        (rng.standard_normal(shape) * np.sin(np.arange(shape[1]) / 1600)).astype(np.float32)
        for shape in shapes
    ]


def session(path: Path) -> Any:
    """An onnxruntime session that runs an ONNX file on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def largest_difference(path: Path, network: Any, inputs: Sequence[np.ndarray]) -> float:
    """The largest difference between the logits of an ONNX file and the network's, as a share of the
    network's largest; infinite where the shapes differ, or a logit of the file is not finite.

    inputs: (batch, samples) float32 each.
    """
    runs, worst = session(path), 0.0
    for values in inputs:
        with torch.inference_mode():
            ours = network(torch.from_numpy(values)).logits.numpy()
        (theirs,) = runs.run(["logits"], {"input_values": values})
        if theirs.shape != ours.shape or not np.isfinite(theirs).all():
            return float("inf")
        worst = max(worst, float(np.abs(theirs - ours).max() / np.abs(ours).max()))
    return worst


def write_int8(path: Path, to: Path) -> None:
    """Write the ONNX file `path` to `to` with its matrices in 8 bits, quantised dynamically. Convolutions
    stay in fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            path,
            to,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=path.with_name(path.name + ".data").exists(),
        )
