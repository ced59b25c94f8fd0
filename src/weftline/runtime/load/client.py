"""One streamed completion over HTTP, timed; by the standard library, so that little else is."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from weftline.errors import InputError

__all__ = ["Answer", "Target", "ask", "target_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    path: str
    tls: bool
    model: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request gave; times in seconds since the run began."""

    sent: float
    first: float | None
    last: float
    input_tokens: int
    output_tokens: int
    error: str = ""

    @property
    def ttft_s(self) -> float | None:
        """From sending to the first piece of text."""
        return None if self.first is None else self.first - self.sent

    @property
    def tpot_s(self) -> float | None:
        """Mean time between tokens after the first."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)


def target_of(url: str, key: str | None, model: str | None, timeout_s: float = 10.0) -> Target:
    """The server at ``url``, asked for its model. Raises InputError where nobody answers."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"`{url}` is no address of a server", hint="http://127.0.0.1:8000")
    tls = parts.scheme == "https"
    base = parts.path.rstrip("/").removesuffix("/v1")
    found = Target(parts.hostname, parts.port or (443 if tls else 80), base, tls, model or "", key)
    if model:
        return found
    try:
        raw = asyncio.run(asyncio.wait_for(_get(found, f"{base}/v1/models"), timeout_s))
        name = json.loads(raw)["data"][0]["id"]
    except (OSError, TimeoutError, ValueError, KeyError, IndexError, TypeError):
        raise InputError("no server answers /v1/models there", where=url,
                         hint="weftline serve MODEL, or --model NAME") from None  # fmt: skip
    return Target(found.host, found.port, base, tls, str(name), key)


async def _open(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context() if target.tls else None
    return await asyncio.open_connection(target.host, target.port, ssl=context)


def _head(target: Target, line: str, length: int = 0) -> bytes:
    key = f"authorization: Bearer {target.key}\r\n" if target.key else ""
    lines = (
        f"{line} HTTP/1.1\r\nhost: {target.host}:{target.port}\r\n{key}connection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    return lines.encode()


async def _get(target: Target, path: str) -> bytes:
    reader, writer = await _open(target)
    try:
        writer.write(_head(target, f"GET {path}"))
        return (await reader.read()).partition(b"\r\n\r\n")[2]
    finally:
        writer.close()


async def ask(
    target: Target, prompt: Sequence[int], output_tokens: int, begun: float, timeout_s: float
) -> Answer:
    """Send one prompt, take its answer. Errors are told in the answer, never raised."""
    sent = time.perf_counter() - begun
    try:
        return await asyncio.wait_for(_asked(target, prompt, output_tokens, begun), timeout_s)
    except (OSError, ValueError, LookupError, EOFError) as e:
        now = time.perf_counter() - begun
        return Answer(sent, None, now, len(prompt), 0, str(e)[:200] or type(e).__name__)


async def _asked(target: Target, prompt: Sequence[int], output_tokens: int, begun: float) -> Answer:
    body = json.dumps({
        "model": target.model, "prompt": list(prompt), "max_tokens": output_tokens,
        "temperature": 0, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }).encode()  # fmt: skip
    reader, writer = await _open(target)
    try:
        sent = time.perf_counter() - begun
        writer.write(_head(target, f"POST {target.path}/v1/completions", len(body)) + body)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = (await reader.read(4096)).partition(b"\r\n\r\n")[2]
            raise ValueError(f"{status.decode(errors='replace').strip()}: "
                             f"{rest.decode(errors='replace')[:150]}")  # fmt: skip
        first, last, counted, said = None, sent, 0, None
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter() - begun
            data = json.loads(line[6:])
            if data.get("usage"):
                said = int(data["usage"]["completion_tokens"])
            if data.get("choices") and (data["choices"][0].get("text") or counted == 0):
                counted, last = counted + 1, now
                first = now if first is None else first
        made = counted if said is None else said
        return Answer(sent, first, last, len(prompt), made)
    finally:
        writer.close()
