"""The parts' names, in their order: nothing is imported for `--help`."""

NAMES = {
    "environment": "card, driver, libraries, clocks",
    "numerics": "every family against the CPU: logits, gradients, packed against alone",
    "ctc": "CTC loss and gradient against torch's in double precision",
    "cli": "runs by the command line: SIGUSR1, resume, evaluate, transcribe",
    "ranks": "a world of one through NCCL and FSDP",
    "train": "training by the audio of a forward pass: speed, memory, syncs",
    "score": "scoring by the audio of a forward pass",
    "hf": "transformers as shipped and tuned, same audio",
    "kernels": "where a training step's device time goes",
    "memory": "a step that does not fit",
    "switches": "what trainer.compile and trainer.deterministic cost or gain",
}
