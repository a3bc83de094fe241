"""Forward passes where nothing is trained, in parts where they do not fit into memory."""

import torch

from asr_exp.core.errors import UserError
from asr_exp.data.batch import Batch
from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.recogniser import Emissions, Recogniser
from asr_exp.runtime.out_of_memory import free_cached, is_out_of_memory


def forward_in_parts(
    model: Recogniser, batch: Batch, device: torch.device, recording: SignalStatistics | None = None
) -> Emissions:
    """`model(batch)` on a device, in halves of its rows where it does not fit there.

    In evaluation mode a row depends on no other row, and on its padding, which a half keeps.

    Args:
        model: on the device, in evaluation mode.
        batch: on the host, or on the device.
        device: of the model.
        recording: as for the model.

    Returns:
        The emissions of all rows.

    Raises:
        UserError: a row does not fit alone.
    """
    try:
        return model(batch.to(device), recording)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Here the error is gone, and what its traceback kept alive.
    free_cached(device)
    if len(batch) == 1:
        seconds = batch.samples / model.extractor.sampling_rate
        raise UserError(
            f"{seconds:.0f} s of audio do not fit into the memory of {device} at once: give"
            " trainer.device=cpu, or cut or leave out long recordings (transcribe.whole_seconds,"
            " dataset.max_eval_seconds)."
        )
    middle = len(batch) // 2
    halves = [
        forward_in_parts(model, rows, device, recording)
        for rows in (batch.rows(0, middle), batch.rows(middle, len(batch)))
    ]
    longest = max(half.logits.shape[1] for half in halves)
    logits = [
        torch.nn.functional.pad(half.logits, (0, 0, 0, longest - half.logits.shape[1])) for half in halves
    ]
    return Emissions(torch.cat(logits), [count for half in halves for count in half.frames])
