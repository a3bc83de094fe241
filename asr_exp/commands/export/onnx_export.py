"""A CTC network as an ONNX file, compared with the network it is made of, and in 8 bits."""

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
ONE_FILE = 1.9e9  # bytes of weights; an ONNX file of more than 2 GB keeps them in a file of their own
TRACED = 16_000  # samples that the network is traced with
LENGTHS = (4_000, 9_113, 21_920, 46_400, 112_480)  # and others that the file is checked with


class _Logits(nn.Module):
    """The network as a function of one tensor."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.network(input_values).logits


def require_onnx() -> None:
    """Raises UserError where what ONNX files take is not installed."""
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
    """Write a transformers CTC network, `input_values` (batch, samples) -> `logits` (batch, frames,
    vocabulary), both dynamic -> the largest difference to the network's own logits, as a share of the largest
    logit, over lengths that it was not traced with.

    network: as transformers loads it (not a Recogniser's, whose forward is for batches without padding),
    without attention mask. Raises UserError where the file does not say what the network says; then there is
    no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet(), torch.no_grad():
            _trace(_Logits(network.eval()), path)
        difference = largest_difference(path, network, check_inputs())
        reason = f"its logits are off by {difference:.1g} of the largest"
    except Exception as why:  # the exporter and the runtime have many of their own
        difference, reason = float("inf"), (str(why).strip().splitlines() or [type(why).__name__])[0]
    if difference <= TOLERANCE:
        return difference
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    raise UserError(
        f"{type(network).__name__} does not make an ONNX file that equals it: {reason.rstrip('.')}. Leave out"
        " export.onnx."
    )


def _trace(model: nn.Module, path: Path) -> None:
    """By torch.export. What the older exporter wrote (dynamo=False, torch 2.12) had other logits than the
    model.
    """
    example, axes = torch.randn(2, TRACED), {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
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
        external_data=size > ONE_FILE,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_inputs() -> list[np.ndarray]:
    """Noise that comes and goes, (1 or 3, samples), of lengths the network was not traced with."""
    rng = np.random.default_rng(0)
    shapes = [*((1, length) for length in LENGTHS), (3, LENGTHS[1])]
    return [
        (rng.standard_normal(shape) * np.sin(np.arange(shape[1]) / 1600)).astype(np.float32)
        for shape in shapes
    ]


def session(path: Path) -> Any:
    """An ONNX file, loaded to be run on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def largest_difference(path: Path, network: Any, inputs: Sequence[np.ndarray]) -> float:
    """How far the logits of an ONNX file are from the network's at the most, as a share of the largest of
    these.

    inputs: (batch, samples) float32 each. Infinite where the shapes are not the same, or something is not a
    number.
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
    """An ONNX file with its matrices in 8 bits, quantised dynamically; convolutions stay as they are."""
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
