"""What a server takes, and how it refuses the rest."""

from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.responses import JSONResponse

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}


@dataclass(frozen=True)
class ServeLimits:
    """max_bytes, max_seconds: of one recording. queue: requests under way at once, from their first byte to
    their answer; queue_seconds: audio they hold decoded, all together. streams: WebSocket sessions at once.
    timeout: seconds of one request."""

    max_bytes: int
    max_seconds: float
    queue: int
    queue_seconds: float
    streams: int
    timeout: float


class HTTPError(HTTPException):
    """A request that is not served, and why: whole sentences for whoever sent it. retry_after: seconds, where
    asking again helps.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None):
        headers = None if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
        super().__init__(status, message, headers)


def error_body(status: int, message: str) -> dict:
    """An error as OpenAI's API words it, so that its clients raise what they raise there."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_response(error: HTTPException) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)
