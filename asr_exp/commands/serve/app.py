"""The application: the HTTP API (OpenAI's and a simpler one), the WebSocket, the health check, the metrics
and the web page.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, Literal

import prometheus_client
from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile as StarletteUpload
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect

from asr_exp import __version__
from asr_exp.commands.serve.limits import HTTPError, error_body, error_response
from asr_exp.commands.serve.middleware import RequestLimits, cancel_on_disconnect, is_authorised
from asr_exp.commands.serve.responses import verbose_json, words_as_json
from asr_exp.commands.serve.service import Service
from asr_exp.commands.serve.stream import serve_stream
from asr_exp.commands.serve.uploads import recording_from_json
from asr_exp.inference.transcript_formats import FORMATS

WEB_FOLDER = Path(__file__).parent / "web"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SPOOL_BYTES = 2**20  # of a body in memory; a larger one goes to a temporary file, as starlette does for forms
RESPONSE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(service: Service, token: str | None = None, local_only: bool = False) -> FastAPI:
    """The ASGI application of a service.

    token: what clients must send for everything but the web page and the health check; None for no token.
    local_only: whether the Host header must name this machine, see `RequestLimits`.
    """
    # no docs_url: FastAPI's pages about the API load scripts from another site
    app = FastAPI(title="asr_exp", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(
        RequestLimits,
        limits=service.limits,
        token=token,
        metrics=service.metrics,
        headers=RESPONSE_HEADERS,
        local_only=local_only,
    )
    _add_error_handlers(app)
    _add_transcription(app, service)
    _add_stream(app, service, token)
    _add_status(app, service, needs_token=token is not None)
    _add_web_page(app)
    return app


@dataclass
class TranscriptionForm:
    """The fields of OpenAI's transcription form, beside the recording itself."""

    model: Annotated[str, Form(description="accepted and not looked at: there is one")] = ""
    language: Annotated[str | None, Form(description="accepted: the model knows one")] = None
    prompt: Annotated[str, Form(description="accepted and not looked at")] = ""
    temperature: Annotated[float, Form(description="accepted and not looked at")] = 0.0
    response_format: Annotated[Literal["json", "text", "srt", "vtt", "verbose_json"], Form()] = "json"
    granularities: Annotated[
        Sequence[Literal["word", "segment"]], Form(alias="timestamp_granularities[]")
    ] = ("segment",)
    stream: Annotated[bool, Form(description="only false: /v1/stream gives partial results")] = False


def _add_transcription(app: FastAPI, service: Service) -> None:
    @app.post("/v1/audio/transcriptions", response_model=None)
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File(description="the recording")],
        form: Annotated[TranscriptionForm, Depends()],
    ) -> Response:
        if form.stream:
            raise HTTPError(
                400, "Partial results come over the WebSocket /v1/stream; stream=true is not served."
            )
        transcript = await cancel_on_disconnect(request, service.transcribe_upload(file.file.read))
        match form.response_format:
            case "text":
                return PlainTextResponse(transcript.text + "\n")
            case "srt":
                return PlainTextResponse(FORMATS["srt"](transcript, ""), media_type="application/x-subrip")
            case "vtt":
                return PlainTextResponse(FORMATS["vtt"](transcript, ""), media_type="text/vtt")
            case "verbose_json":
                language = form.language or service.model.language or "und"
                return JSONResponse(verbose_json(transcript, language, form.granularities))
        return JSONResponse({"text": transcript.text})

    @app.post("/predict", response_model=None)
    async def predict(request: Request) -> Response:
        """{"file": BASE64} as JSON, or a form with `file` -> text, words with times, seconds."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with request.form() as form:
                file = form.get("file")
                if not isinstance(file, StarletteUpload):
                    raise HTTPError(400, "The form has no file named 'file'.")
                transcript = await cancel_on_disconnect(request, service.transcribe_upload(file.file.read))
        elif kind == "application/json":
            async with _spooled_body(request) as body:
                transcript = await cancel_on_disconnect(
                    request, service.transcribe_upload(lambda: recording_from_json(body))
                )
        else:
            raise HTTPError(
                415,
                'Send a form (multipart/form-data) with file=..., or application/json with {"file":'
                f" BASE64}}, not {kind or 'a body without a content type'}.",
            )
        return JSONResponse(
            {
                "text": transcript.text,
                "words": words_as_json(transcript),
                "seconds": round(transcript.seconds, 3),
            }
        )


def _add_stream(app: FastAPI, service: Service, token: str | None) -> None:
    def authorise(connection: HTTPConnection, offered: str) -> bool:
        return is_authorised(token, connection, offered)

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await serve_stream(socket, service, authorise)


def _add_status(app: FastAPI, service: Service, needs_token: bool) -> None:
    """The health check, the metrics, and OpenAI's list of models."""
    model_id = service.model.name
    model = {"id": model_id, "object": "model", "created": int(time.time()), "owned_by": "asr_exp"}

    @app.get("/healthz")
    @app.head("/healthz", include_in_schema=False)
    async def health() -> dict[str, Any]:
        limits = {"megabytes": service.limits.max_bytes / 2**20, "seconds": service.limits.max_seconds}
        return {"status": "ok", "model": model_id, "token": needs_token, "limits": limits}

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{id:path}")
    async def one_model(id: str) -> dict[str, Any]:
        if id != model_id:
            raise HTTPError(404, f"There is no model {id}; this server has {model_id}.")
        return model


def _add_web_page(app: FastAPI) -> None:
    @app.get("/", response_model=None)
    @app.head("/", response_model=None, include_in_schema=False)
    @app.get("/page/{name}", response_model=None)
    async def page(name: str = "index.html") -> Response:
        if name not in {path.name for path in WEB_FOLDER.iterdir() if path.suffix in MEDIA_TYPES}:
            raise HTTPError(404, f"There is no /page/{name}.")
        return FileResponse(WEB_FOLDER / name, media_type=MEDIA_TYPES[Path(name).suffix])


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in the form of `error_body`."""

    @app.exception_handler(StarletteError)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code in (404, 405) and not isinstance(error, HTTPError):
            error = HTTPException(
                error.status_code, f"{request.method} {request.url.path} is not served here.", error.headers
            )
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid_form(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "multipart/form-data":
            message = (
                "Send a form (multipart/form-data) with file=..., not"
                f" {kind or 'a body without a content type'}."
            )
            return JSONResponse(error_body(415, message), 415)
        problems = [f"{'.'.join(map(str, one['loc'][1:2]))}: {one['msg']}" for one in error.errors()]
        message = f"The form is not as it should be ({'; '.join(problems)})."
        return JSONResponse(error_body(400, message), 400)

    @app.exception_handler(ClientDisconnect)
    async def client_disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nginx's "client closed request"; nobody receives it

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        return JSONResponse(
            error_body(500, "The server failed; this is not your fault. Its log says why."), 500
        )


@asynccontextmanager
async def _spooled_body(request: Request) -> AsyncIterator[Any]:
    """The body of a request as a file, in memory up to `SPOOL_BYTES`."""
    with SpooledTemporaryFile(SPOOL_BYTES) as file:
        async for chunk in request.stream():
            file.write(chunk)
        file.seek(0)
        yield file
