"""The limits of a server, and the errors that it answers requests beyond them with."""

from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.responses import JSONResponse

# HTTP status to the `type` of an error in OpenAI's API
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}


@dataclass(frozen=True)
class ServeLimits:
    """How much a server takes on.

    max_bytes, max_seconds: the size of one recording. queue: how many requests are in flight at once, from
    their first byte to their response. queue_seconds: how much decoded audio all of them hold together.
    streams: how many WebSocket sessions are open at once. timeout: seconds that one request may take.
    """

    max_bytes: int
    max_seconds: float
    queue: int
    queue_seconds: float
    streams: int
    timeout: float


class HTTPError(HTTPException):
    """A request that the server refuses or cannot complete.

    message: whole sentences for the client. retry_after: seconds after which another try may succeed, sent as
    the header Retry-After; None where another try does not help.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None):
        headers = None if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
        super().__init__(status, message, headers)


def error_body(status: int, message: str) -> dict:
    """An error in the form of OpenAI's API, so that its clients raise the exceptions they raise there."""
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_response(error: HTTPException) -> JSONResponse:
    """The HTTP response for an error: its status, its headers, and `error_body` as JSON."""
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)
