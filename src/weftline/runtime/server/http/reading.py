"""A request's body read within limits, and the error that a client gets for an answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

__all__ = ["Limits", "Refused", "read"]

B = TypeVar("B", bound=BaseModel)


class Refused(Exception):  # noqa: N818  (an answer, not a failure)
    """A request that gets an error for an answer."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error",
                 param: str | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask of the server's patience and memory."""

    body_bytes: int = 16 << 20
    body_s: float = 30.0
    """To send a request in full."""
    slow_reader_s: float = 60.0
    """To take what was written; whoever does not is disconnected."""


async def read(http: HttpRequest, kind: type[B], limits: Limits) -> B:
    """The body as ``kind``. Raises Refused, which names every mistake with its field."""
    try:
        raw = await asyncio.wait_for(_body(http, limits.body_bytes), limits.body_s)
    except TimeoutError:
        raise Refused(408, "the request did not come in full in time") from None
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise Refused(400, "the body is not a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _mistakes(error) from None
    except RecursionError:
        raise Refused(400, "the body is nested too deep") from None


async def _body(http: HttpRequest, most: int) -> bytes:
    said = http.headers.get("content-length", "")
    if said.isdigit() and int(said) > most:
        raise Refused(413, f"a request holds at most {most} bytes")
    found = bytearray()
    async for piece in http.stream():
        found += piece
        if len(found) > most:
            raise Refused(413, f"a request holds at most {most} bytes")
    return bytes(found)


def _mistakes(error: ValidationError) -> Refused:
    said, fields = [], []
    for one in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in one["loc"])
        fields.append(str(one["loc"][0]) if one["loc"] else "")
        said.append(f"{name}: {one['msg']}" if name else one["msg"].removeprefix("Value error, "))
    return Refused(400, "; ".join(dict.fromkeys(said))[:2000], param=fields[0] or None)
