"""Launches Triton kernels through CUDA's driver.

Triton's own launcher is C code that it compiles on the machine where it runs, with a C compiler and Python's
headers, which the nodes of a cluster often lack. It is not needed: Triton brings all that makes a binary of a
kernel, and the driver launches it.
"""

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}
SCRATCH = 4  # null pointers behind the arguments, for those that Triton adds (two in 3.8), which stay unused


def launch(
    kernel: Any,
    grid: Sequence[int],
    arguments: Sequence[torch.Tensor | int],
    constants: Mapping[str, Any],
    warps: int,
) -> None:
    """Launch a kernel on the current stream of its first argument's device; on CPU tensors Triton's
    interpreter runs it (TRITON_INTERPRET=1).

    Args:
        kernel: a function under `triton.jit`, with its compile-time constants at the end.
        grid: the numbers of programs.
        arguments: tensors, and int32.
        constants: the compile-time constants by their names.
        warps: of each program.
    """
    first = arguments[0]
    assert isinstance(first, torch.Tensor)
    if not first.is_cuda:
        kernel[tuple(grid)](*arguments, **constants, num_warps=warps)
        return
    types = tuple(TYPES[a.dtype] if isinstance(a, torch.Tensor) else "i32" for a in arguments)
    index = first.device.index
    with torch.cuda.device(index):
        function, shared = _compiled(kernel, types, tuple(constants.items()), warps, index)
        values = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_int32(a)
            for a in arguments
        ] + [ctypes.c_void_p()] * SCRATCH
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        sizes = (*grid, *[1] * (3 - len(grid)), 32 * warps, 1, 1, shared)
        _check(_driver().cuLaunchKernel(function, *map(ctypes.c_uint, sizes), stream, pointers, None))


@cache
def _compiled(
    kernel: Any, types: tuple[str, ...], constants: tuple[tuple[str, Any], ...], warps: int, device: int
) -> tuple[ctypes.c_void_p, int]:
    """A kernel on a device, and the bytes of shared memory that a program needs."""
    major, minor = torch.cuda.get_device_capability(device)
    binary = compile_kernel(kernel, types, dict(constants), warps, 10 * major + minor)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), binary.asm["cubin"]))
    name = binary.metadata.name.encode()
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, name))
    return function, binary.metadata.shared


def compile_kernel(
    kernel: Any, types: Sequence[str], constants: Mapping[str, Any], warps: int, capability: int
) -> Any:
    """Compile a kernel, or find it in Triton's cache. capability: of the device, 90 for 9.0; none has to be
    here.
    """
    names = kernel.arg_names
    signature = dict(zip(names, [*types, *["constexpr"] * len(constants)], strict=True))
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _check(status: int) -> None:
    if status:
        message = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(message))
        raise RuntimeError(f"CUDA: {(message.value or b'unknown error').decode()}")
