"""The application: OpenAI's way to transcribe, a simpler one, a WebSocket, a health check, metrics and the
web page.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, Literal

import prometheus_client
from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.datastructures import UploadFile as StarletteUpload
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import ClientDisconnect

from asr_exp import __version__
from asr_exp.commands.serve import responses as answers
from asr_exp.commands.serve.limits import HTTPError, error_body, error_response
from asr_exp.commands.serve.middleware import RequestLimits, is_authorised, while_there
from asr_exp.commands.serve.service import Service
from asr_exp.commands.serve.stream import serve_stream
from asr_exp.commands.serve.uploads import from_json
from asr_exp.inference.transcript_formats import FORMATS

PAGE = Path(__file__).parent / "web"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
IN_MEMORY = 2**20  # bytes of a body; what is more is written to a temporary file, as for a form
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def make_app(service: Service, token: str | None = None, local: bool = False) -> FastAPI:
    """The ASGI application of a service. token: what requests must bear, but for the page and the health
    check; local: whether it answers to the names of this machine alone."""
    # FastAPI's pages of the API load from elsewhere.
    app = FastAPI(title="asr_exp", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(
        RequestLimits,
        limits=service.limits,
        token=token,
        metrics=service.metrics,
        headers=HEADERS,
        local=local,
    )
    _add_errors(app)
    _add_recognition(app, service)
    _add_rest(app, service, token)
    return app


def _add_recognition(app: FastAPI, service: Service) -> None:
    @app.post("/v1/audio/transcriptions", response_model=None)
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File(description="the recording")],
        model: Annotated[str, Form(description="accepted and not looked at: there is one")] = "",
        language: Annotated[str | None, Form(description="accepted: the model knows one")] = None,
        prompt: Annotated[str, Form(description="accepted and not looked at")] = "",
        temperature: Annotated[float, Form(description="accepted and not looked at")] = 0.0,
        response_format: Annotated[Literal["json", "text", "srt", "vtt", "verbose_json"], Form()] = "json",
        granularities: Annotated[
            list[Literal["word", "segment"]], Form(alias="timestamp_granularities[]")
        ] = ["segment"],  # noqa: B006
        stream: Annotated[bool, Form(description="only false: /v1/stream gives partial results")] = False,
    ) -> Response:
        if stream:
            raise HTTPError(
                400, "Partial results come over the WebSocket /v1/stream; stream=true is not served."
            )
        said = await while_there(request, service.transcript(file.file.read))
        match response_format:
            case "text":
                return PlainTextResponse(said.text + "\n")
            case "srt":
                return PlainTextResponse(FORMATS["srt"](said, ""), media_type="application/x-subrip")
            case "vtt":
                return PlainTextResponse(FORMATS["vtt"](said, ""), media_type="text/vtt")
            case "verbose_json":
                return JSONResponse(
                    answers.verbose(said, language or service.language or "und", granularities)
                )
        return JSONResponse({"text": said.text})

    @app.post("/predict", response_model=None)
    async def predict(request: Request) -> Response:
        """{"file": BASE64} as JSON, or a form with `file` -> text, words with times, seconds."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            async with request.form() as form:
                file = form.get("file")
                if not isinstance(file, StarletteUpload):
                    raise HTTPError(400, "The form has no file named 'file'.")
                said = await while_there(request, service.transcript(file.file.read))
        elif kind == "application/json":
            async with _spooled(request) as body:
                said = await while_there(request, service.transcript(lambda: from_json(body)))
        else:
            sent = kind or "a body without a content type"
            raise HTTPError(
                415,
                'Send a form (multipart/form-data) with file=..., or application/json with {"file":'
                f" BASE64}}, not {sent}.",
            )
        return JSONResponse(
            {"text": said.text, "words": answers.words(said), "seconds": round(said.seconds, 3)}
        )


def _add_rest(app: FastAPI, service: Service, token: str | None) -> None:
    started = int(time.time())

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        def may(connection: HTTPConnection, given: str) -> bool:
            return is_authorised(token, connection, given)

        await serve_stream(socket, service, may)

    @app.get("/healthz")
    @app.head("/healthz", include_in_schema=False)
    async def health() -> dict[str, Any]:
        limits = {"megabytes": service.limits.max_bytes / 2**20, "seconds": service.limits.max_seconds}
        return {"status": "ok", "model": service.model, "token": token is not None, "limits": limits}

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.page(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    model = {"id": service.model, "object": "model", "created": started, "owned_by": "asr_exp"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{id:path}")
    async def one_model(id: str) -> dict[str, Any]:
        if id != service.model:
            raise HTTPError(404, f"There is no model {id}; this server has {service.model}.")
        return model

    @app.get("/", response_model=None)
    @app.head("/", response_model=None, include_in_schema=False)
    @app.get("/page/{name}", response_model=None)
    async def page(name: str = "index.html") -> Response:
        if name not in {path.name for path in PAGE.iterdir() if path.suffix in MEDIA}:
            raise HTTPError(404, f"There is no /page/{name}.")
        return FileResponse(PAGE / name, media_type=MEDIA[Path(name).suffix])


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteError)
    async def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code in (404, 405) and not isinstance(error, HTTPError):
            error = HTTPException(
                error.status_code, f"{request.method} {request.url.path} is not served here.", error.headers
            )
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "multipart/form-data":
            message = (
                "Send a form (multipart/form-data) with file=..., not"
                f" {kind or 'a body without a content type'}."
            )
            return JSONResponse(error_body(415, message), 415)
        found = [f"{'.'.join(map(str, one['loc'][1:2]))}: {one['msg']}" for one in error.errors()]
        return JSONResponse(error_body(400, f"The form is not as it should be ({'; '.join(found)})."), 400)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # to no one

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(
            error_body(500, "The server failed; this is not your fault. Its log says why."), 500
        )


@asynccontextmanager
async def _spooled(request: Request) -> AsyncIterator[Any]:
    """The body of a request as a file."""
    with SpooledTemporaryFile(IN_MEMORY) as file:
        async for part in request.stream():
            file.write(part)
        file.seek(0)
        yield file
