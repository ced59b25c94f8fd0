"""The HTTP interface: OpenAI's completions and chat completions over one engine."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weftline.runtime.server.engine.loop import Busy
from weftline.runtime.server.engine.requests import Request, Token
from weftline.runtime.server.engine.worker import Worker
from weftline.runtime.server.http.answers import Choice, Shape, usage_of
from weftline.runtime.server.http.metrics import Metrics
from weftline.runtime.server.http.protocol import (
    Asked,
    ChatAsked,
    CompletionAsked,
    StreamOptions,
    ToDetokenize,
    ToTokenize,
    sampling_of,
)
from weftline.runtime.server.http.reading import Limits, Refused, read
from weftline.runtime.server.http.text import TextStream
from weftline.runtime.server.http.tokens import Tokens

__all__ = ["Server", "app_of"]

RETRY_AFTER_S: Final = 1
OPEN: Final = ("/health", "/metrics")
"""Doors that need no key."""
Handler = Callable[[HttpRequest, Exception], Awaitable[Response]]
A = TypeVar("A", Asked, ChatAsked, CompletionAsked, ToDetokenize, ToTokenize)


@dataclass(slots=True, eq=False)
class Server:
    """A model behind the interface."""

    worker: Worker
    tokens: Tokens
    name: str
    ends: frozenset[int]
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))

    async def completions(self, http: HttpRequest) -> Response:
        """``POST /v1/completions``"""
        asked = await self._read(http, CompletionAsked)
        prompts = await self.tokens.off_loop(
            lambda: [self.tokens.encode(p) for p in asked.prompts()]
        )
        echoed = [p if isinstance(p, str) else "" for p in asked.prompts()]
        if asked.echo:
            echoed = [e or self.tokens.tokenizer.decode(p, skip_special_tokens=True)
                      for e, p in zip(echoed, prompts, strict=True)]  # fmt: skip
        return await self._answer(http, asked, prompts, echoed if asked.echo else [])

    async def chat(self, http: HttpRequest) -> Response:
        """``POST /v1/chat/completions``"""
        asked = await self._read(http, ChatAsked)
        prompt = await self.tokens.off_loop(lambda: self.tokens.template(asked.plain_messages()))
        return await self._answer(http, asked, [prompt], [])

    async def tokenize(self, http: HttpRequest) -> Response:
        """``POST /tokenize``"""
        asked = await self._read(http, ToTokenize)
        return JSONResponse(await self.tokens.off_loop(lambda: self.tokens.tokenized(asked)))

    async def detokenize(self, http: HttpRequest) -> Response:
        """``POST /detokenize``"""
        asked = await self._read(http, ToDetokenize)
        return JSONResponse(await self.tokens.off_loop(lambda: self.tokens.detokenized(asked)))

    async def tokenizer_info(self, _http: HttpRequest) -> Response:
        """``GET /tokenizer_info``"""
        return JSONResponse(self.tokens.info())

    async def models(self, _http: HttpRequest) -> Response:
        """``GET /v1/models``"""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, http: HttpRequest) -> Response:
        """``GET /v1/models/NAME``"""
        self._is_here(http.path_params["name"])
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.started, "root": self.name,
                "owned_by": "weftline", "max_model_len": self.worker.engine.max_len}  # fmt: skip

    async def health(self, _http: HttpRequest) -> Response:
        """``GET /health``: 200 while the engine steps."""
        return Response(status_code=503 if self.worker.failed else 200)

    async def metrics_text(self, _http: HttpRequest) -> Response:
        """``GET /metrics``"""
        text = self.metrics.text(self.worker.engine)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    # -- on the way in --

    async def _read(self, http: HttpRequest, kind: type[A]) -> A:
        asked = await read(http, kind, self.limits)
        self._is_here(asked.model)
        return asked

    def _is_here(self, model: str | None) -> None:
        if model is not None and model != self.name:
            raise Refused(404, f"the model `{model[:100]}` is not here; `{self.name}` is",
                          kind="NotFoundError", param="model")  # fmt: skip

    # -- on the way out --

    async def _answer(
        self, http: HttpRequest, asked: Asked, prompts: list[list[int]], echoed: list[str]
    ) -> Response:
        queue: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        choices = self._submit(asked, prompts, queue)
        chat = isinstance(asked, ChatAsked)
        shape = Shape(f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", self.name, chat,
                      self.tokens.tokenizer)  # fmt: skip
        texts = [echoed[i // asked.n] if echoed else "" for i in range(len(choices))]
        if asked.stream:
            events = self._events(shape, choices, texts, queue, asked.stream_options)
            return StreamingResponse(events, media_type="text/event-stream",
                                     headers={"cache-control": "no-cache"})  # fmt: skip
        await self._whole(http, choices, queue)
        return JSONResponse(shape.whole(choices, texts))

    def _submit(
        self, asked: Asked, prompts: list[list[int]], queue: asyncio.Queue[tuple[int, Token]]
    ) -> list[Choice]:
        """All choices queued, or none."""
        loop = asyncio.get_running_loop()
        choices: list[Choice] = []
        try:
            for prompt in map(tuple, prompts):
                if len(prompt) > self.worker.engine.max_len:
                    raise ValueError(f"the prompt has {len(prompt)} tokens; a sequence holds "
                                     f"{self.worker.engine.max_len} with its answer")  # fmt: skip
                for j in range(asked.n):
                    index = len(choices)
                    sampling = sampling_of(
                        asked, room=max(0, self.worker.engine.max_len - len(prompt)),
                        ends=self.ends, vocabulary=self.tokens.vocabulary, choice=j,
                    )  # fmt: skip

                    def sink(_request: Request, token: Token, at: int = index) -> None:
                        loop.call_soon_threadsafe(queue.put_nowait, (at, token))

                    request = self.worker.submit(prompt, sampling, sink)
                    text = TextStream(self.tokens.tokenizer, asked.stop,
                                      keep_stop=asked.include_stop_str_in_output)  # fmt: skip
                    choices.append(Choice(index, request, text))
        except (Busy, ValueError) as error:
            self._drop(choices)
            if isinstance(error, Busy):
                failed = self.worker.failed is not None
                raise Refused(503 if failed else 429, str(error), kind="server_busy") from None
            raise Refused(400, str(error)) from None
        return choices

    async def _each(
        self, choices: list[Choice], queue: asyncio.Queue[tuple[int, Token]]
    ) -> AsyncIterator[tuple[Choice, str]]:
        """Pieces of text as they come; whatever happens, no choice is left running."""
        try:
            while any(choice.finish is None for choice in choices):
                index, token = await queue.get()
                choice = choices[index]
                if choice.finish is None:
                    piece = choice.take(token)
                    if choice.finish is not None:
                        self._ended(choice)
                    yield choice, piece
        finally:
            self._drop(choices)

    async def _whole(
        self, http: HttpRequest, choices: list[Choice], queue: asyncio.Queue[tuple[int, Token]]
    ) -> None:
        async def gather() -> None:
            async for _ in self._each(choices, queue):
                pass

        async def leaves() -> None:
            while not await http.is_disconnected():
                await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(gather()), asyncio.create_task(leaves())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise ClientDisconnect
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            self._drop(choices)
        if any(choice.finish == "cancelled" for choice in choices):
            raise Refused(503, "the server is stopping", kind="server_error")

    async def _events(
        self, shape: Shape, choices: list[Choice], prompts: list[str],
        queue: asyncio.Queue[tuple[int, Token]], options: StreamOptions | None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        usage = options is not None and options.include_usage
        each = usage and options is not None and options.continuous_usage_stats
        begun: set[int] = set()
        async for choice, piece in self._each(choices, queue):
            if piece or choice.finish or choice.told:
                first = choice.index not in begun
                begun.add(choice.index)
                prompt = prompts[choice.index]
                said = shape.chunk(choice, piece, first=first, prompt=prompt)
                yield _event({**said, "usage": usage_of(choices)} if each else said)
        if usage:
            yield _event(shape.end(choices))
        yield b"data: [DONE]\n\n"

    def _ended(self, choice: Choice) -> None:
        request, seen = choice.request, self.metrics
        reason = choice.finish or "stop"
        seen.finished[reason] = seen.finished.get(reason, 0) + 1
        seen.prompt_tokens += len(request.prompt)
        seen.cached_tokens += request.cached_tokens
        seen.generation_tokens += request.generated
        seen.preemptions += request.preempted
        if request.first_token_at is None or request.last_token_at is None:
            return
        seen.ttft_s.add(request.first_token_at - request.arrived)
        seen.latency_s.add(request.last_token_at - request.arrived)
        if request.generated > 1:
            span = request.last_token_at - request.first_token_at
            seen.tpot_s.add(span / (request.generated - 1))

    def _drop(self, choices: list[Choice]) -> None:
        for choice in choices:
            self.worker.cancel(choice.request)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


class _Guard:
    """Keys, and clients that take nothing."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._server.api_key and scope["path"] not in OPEN and not self._known(scope):
            said = Refused(401, "a key is needed: Authorization: Bearer ...",
                           kind="authentication_error")  # fmt: skip
            await _told(said, self._server)(scope, receive, send)
            return

        async def patient(message: Message) -> None:
            await asyncio.wait_for(send(message), self._server.limits.slow_reader_s)

        try:
            await self._app(scope, receive, patient)
        except TimeoutError:
            return  # the connection is closed behind it; what ran for it was dropped

    def _known(self, scope: Scope) -> bool:
        said = dict(scope["headers"]).get(b"authorization", b"")
        wanted = f"Bearer {self._server.api_key}".encode()
        return hmac.compare_digest(said, wanted)


def _told(refused: Refused, server: Server) -> JSONResponse:
    seen = server.metrics.refused
    seen[refused.status] = seen.get(refused.status, 0) + 1
    headers = {"retry-after": str(RETRY_AFTER_S)} if refused.status in (429, 503) else None
    return JSONResponse(
        {"error": {"message": refused.message, "type": refused.kind, "param": refused.param,
                   "code": refused.status}},
        status_code=refused.status, headers=headers,
    )  # fmt: skip


def app_of(server: Server) -> ASGIApp:
    """The application for an ASGI server; it ends the engine's thread when it is shut down."""

    async def refused(_http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101
        return _told(error, server)

    async def wrong_door(_http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return _told(Refused(error.status_code, str(error.detail)), server)

    async def gone(_http: HttpRequest, _failure: Exception) -> Response:
        return Response(status_code=499)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.worker.stop)
        server.tokens.close()

    handlers: dict[Any, Handler] = {
        Refused: refused, HTTPException: wrong_door, ClientDisconnect: gone
    }  # fmt: skip
    routes = [
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/models", server.models), Route("/v1/models/{name:path}", server.model),
        Route("/tokenize", server.tokenize, methods=["POST"]),
        Route("/detokenize", server.detokenize, methods=["POST"]),
        Route("/tokenizer_info", server.tokenizer_info),
        Route("/health", server.health), Route("/metrics", server.metrics_text),
    ]  # fmt: skip
    return _Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), server)
