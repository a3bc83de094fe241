"""Answer over HTTP with what a run has learned: serve RUN, then open the address it names in a browser.

POST /v1/audio/transcriptions takes what OpenAI's clients send, /predict a form with file=... or JSON {"file":
BASE64}, and the WebSocket /v1/stream speech as it is spoken. Requests that come together are recognised
together. GET /healthz and /metrics (Prometheus) tell how it fares. SIGTERM and Ctrl-C stop it when what is
under way is answered. Needs the extra `serve`.
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

LOCAL = ("127.0.0.1", "localhost", "::1")


def run(config: DictConfig) -> int:
    """Serve until a signal comes. Raises Stopped then, UserError where the address or the model cannot be
    had.
    """
    try:
        from asr_exp.commands.serve.app import make_app
        from asr_exp.commands.serve.limits import ServeLimits
        from asr_exp.commands.serve.server import bound, listen, serve, url
        from asr_exp.commands.serve.service import Service
    except ModuleNotFoundError as why:
        raise UserError(f"serve needs {why.name}: pip install 'asr_exp[serve]'.") from None
    s = config.serve
    if s.token is not None and not re.fullmatch(r"[\x21-\x7e]+", s.token):
        found = "has characters that no header carries" if s.token else "is empty"
        raise UserError(
            f"serve.token {found}; give a word of ASCII letters, digits and signs, or leave it out."
        )
    limits = ServeLimits(
        int(s.max_megabytes * 2**20), s.max_seconds, s.queue, s.queue_seconds, s.streams, s.timeout
    )
    with bound(s.host, s.port) as at, started(config.trainer.device, "fp32") as runtime:
        transcriber = load_transcriber(config, runtime)
        name = _name(config)
        language = config.dataset.language
        batching = {
            "batch_seconds": s.batch_seconds,
            "window": s.window,
            "decoders": s.decoders,
            "long": transcriber.chunking.whole,
        }
        with Service(transcriber, transcriber.rate, name, language, limits, **batching) as service:
            listen(at)
            print(f"{name} answers at {url(at)} (Ctrl-C stops it)", flush=True)
            if s.host not in LOCAL and not s.token:
                print(f"Whoever reaches {s.host} may use it; serve.token=WORD asks for a word.", flush=True)
            asked, cut = serve(make_app(service, s.token, local=s.host in LOCAL and not s.token), at)
    if asked:
        done = f"cut {counted(cut, 'request')} short" if cut else "answered what was under way"
        raise Stopped(f"The server has {done}, and stopped.", asked)
    return 0


def _name(config: DictConfig) -> str:
    """What the model is called: DATASET/MODEL/SIGNATURE of a run, the name of a checkpoint."""
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
    if is_run(folder):
        return f"{config.dataset.name}/{config.model.name}/{folder.resolve().name}"
    return folder.name if folder.is_dir() else config.run or config.model.checkpoint
