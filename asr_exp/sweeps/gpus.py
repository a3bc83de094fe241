"""The GPUs of a cell that runs beside others."""

import os

from asr_exp.runtime.gpus import lock_gpus


def take_gpus(device: str, devices: int, visible: str | None) -> None:
    """Choose GPUs for a cell that no other cell on this machine has; see `lock_gpus`.

    Args:
        device: trainer.device; nothing is chosen for cpu, and for cuda:N, which is chosen already.
        devices: trainer.devices, of which each needs one.
        visible: CUDA_VISIBLE_DEVICES of the command line that has started the sweep; None where it has none.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        # submitit_local shows a job the first gpus_per_node GPUs, by default none, whatever others work on
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
    if device in ("auto", "cuda"):
        lock_gpus(devices)
