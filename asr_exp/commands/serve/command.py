"""Answer over HTTP with what a run has learned: serve RUN, then open the address it names in a browser.

POST /v1/audio/transcriptions takes what OpenAI's clients send, /predict a form with file=... or JSON
{"file": BASE64}, and the WebSocket /v1/stream speech as it is spoken. Requests that come together are
recognised together. GET /healthz and /metrics (Prometheus) tell how it fares. SIGTERM and Ctrl-C stop it
when what is under way is answered. Needs the extra `serve`.
"""

import re
from pathlib import Path

from omegaconf import DictConfig

from asr_exp.builders.transcriber import load_transcriber
from asr_exp.core.console import counted
from asr_exp.core.errors import Stopped, UserError
from asr_exp.core.files import is_run
from asr_exp.runs.folder import run_folder
from asr_exp.runtime.distributed import started

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def run(config: DictConfig) -> int:
    """Serve until a signal comes.

    Raises Stopped when it does, and UserError where the address is taken, the model cannot be loaded or the
    extra `serve` is not installed.
    """
    try:
        from asr_exp.commands.serve.app import make_app
        from asr_exp.commands.serve.batcher import Batching
        from asr_exp.commands.serve.limits import ServeLimits
        from asr_exp.commands.serve.server import bind, listen, serve, url
        from asr_exp.commands.serve.service import ServedModel, Service
    except ModuleNotFoundError as why:
        raise UserError(f"serve needs {why.name}: pip install 'asr_exp[serve]'.") from None
    settings = config.serve
    token = settings.token
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        problem = "has characters that no header carries" if token else "is empty"
        raise UserError(
            f"serve.token {problem}; give a word of ASCII letters, digits and signs, or leave it out."
        )
    limits = ServeLimits(
        int(settings.max_megabytes * 2**20),
        settings.max_seconds,
        settings.queue,
        settings.queue_seconds,
        settings.streams,
        settings.timeout,
    )
    with (
        bind(settings.host, settings.port) as listener,
        started(config.trainer.device, "fp32") as runtime,
    ):
        transcriber = load_transcriber(config, runtime)
        transcriber.chunks_at_once = 1  # or those who speak into a stream would wait longer for their turn
        model = ServedModel(transcriber, transcriber.rate, _model_name(config), config.dataset.language)
        batching = Batching(settings.batch_seconds, settings.window, transcriber.chunking.whole)
        with Service(model, limits, batching, settings.decoders) as service:
            listen(listener)
            print(f"{model.name} answers at {url(listener)} (Ctrl-C stops it)", flush=True)
            local = settings.host in LOCAL_HOSTS
            if not local and not token:
                print(
                    f"Whoever reaches {settings.host} may use it; serve.token=WORD asks for a word.",
                    flush=True,
                )
            shutdown = serve(make_app(service, token, local_only=local and not token), listener)
    if shutdown.signal:
        cut = shutdown.unanswered
        outcome = f"cut {counted(cut, 'request')} short" if cut else "answered what was under way"
        raise Stopped(f"The server has {outcome}, and stopped.", shutdown.signal)
    return 0


def _model_name(config: DictConfig) -> str:
    """The model's id in the API: DATASET/MODEL/SIGNATURE for a run, else the checkpoint's name."""
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
    if is_run(folder):
        return f"{config.dataset.name}/{config.model.name}/{folder.resolve().name}"
    return folder.name if folder.is_dir() else config.run or config.model.checkpoint
