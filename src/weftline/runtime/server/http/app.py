"""The HTTP interface: OpenAI's completions and chat completions over one engine."""

from __future__ import annotations

import asyncio
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weftline.runtime.server.engine.loop import Busy, Worker
from weftline.runtime.server.engine.requests import Request, Token
from weftline.runtime.server.http.answers import Choice, Shape
from weftline.runtime.server.http.metrics import Metrics
from weftline.runtime.server.http.protocol import Asked, ChatAsked, CompletionAsked, sampling_of
from weftline.runtime.server.http.text import TextStream

__all__ = ["Limits", "Server", "app_of"]

RETRY_AFTER_S: Final = 1
Handler = Callable[[HttpRequest, Exception], Awaitable[Response]]
T = TypeVar("T")
A = TypeVar("A", bound=Asked)


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


@dataclass(slots=True, eq=False)
class Server:
    """A model behind the interface."""

    worker: Worker
    tokenizer: Any
    name: str
    ends: frozenset[int]
    vocabulary: int
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    """Tokenizers are not for several threads at once, and long texts would hold up the loop."""

    async def completions(self, http: HttpRequest) -> Response:
        """``POST /v1/completions``"""
        asked = await self._read(http, CompletionAsked)
        prompts = await self._threaded(lambda: [self._encode(p) for p in asked.prompts()])
        echoed = [p if isinstance(p, str) else "" for p in asked.prompts()]
        if asked.echo:
            echoed = [e or self.tokenizer.decode(p, skip_special_tokens=True)
                      for e, p in zip(echoed, prompts, strict=True)]  # fmt: skip
        return await self._answer(http, asked, prompts, echoed if asked.echo else [])

    async def chat(self, http: HttpRequest) -> Response:
        """``POST /v1/chat/completions``"""
        asked = await self._read(http, ChatAsked)
        if not getattr(self.tokenizer, "chat_template", None):
            raise Refused(400, "this model has no chat template: use /v1/completions")
        prompt = await self._threaded(lambda: self._template(asked))
        return await self._answer(http, asked, [prompt], [])

    async def models(self, _http: HttpRequest) -> Response:
        """``GET /v1/models``"""
        engine = self.worker.engine
        return JSONResponse({"object": "list", "data": [{
            "id": self.name, "object": "model", "created": 0, "owned_by": "weftline",
            "max_model_len": engine.max_len,
        }]})  # fmt: skip

    async def health(self, _http: HttpRequest) -> Response:
        """``GET /health``: 200 while the engine steps."""
        return Response(status_code=503 if self.worker.failed else 200)

    async def metrics_text(self, _http: HttpRequest) -> Response:
        """``GET /metrics``"""
        text = await asyncio.to_thread(self.worker.look, self.metrics.text)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    # -- on the way in --

    async def _read(self, http: HttpRequest, kind: type[A]) -> A:
        try:
            raw = await asyncio.wait_for(self._body(http), self.limits.body_s)
        except TimeoutError:
            raise Refused(408, "the request did not come in full in time") from None
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from None
        if not isinstance(data, dict):
            raise Refused(400, "the body is not a JSON object")
        try:
            asked = kind.model_validate(data)
        except ValidationError as error:
            raise _refused(error) from None
        except RecursionError:
            raise Refused(400, "the body is nested too deep") from None
        if asked.model is not None and asked.model != self.name:
            raise Refused(404, f"the model `{asked.model[:100]}` is not here; `{self.name}` is",
                          kind="NotFoundError", param="model")  # fmt: skip
        return asked

    async def _body(self, http: HttpRequest) -> bytes:
        most = self.limits.body_bytes
        said = http.headers.get("content-length", "")
        if said.isdigit() and int(said) > most:
            raise Refused(413, f"a request holds at most {most} bytes")
        found = bytearray()
        async for piece in http.stream():
            found += piece
            if len(found) > most:
                raise Refused(413, f"a request holds at most {most} bytes")
        return bytes(found)

    async def _threaded(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def _encode(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            found: list[int] = self.tokenizer(prompt, verbose=False)["input_ids"]
            return found
        if max(prompt) >= self.vocabulary:
            raise Refused(400, f"prompt: token {max(prompt)} is not of this model (0 to "
                          f"{self.vocabulary - 1})", param="prompt")  # fmt: skip
        return prompt

    def _template(self, asked: ChatAsked) -> list[int]:
        from jinja2.exceptions import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                asked.plain_messages(), add_generation_prompt=True, tokenize=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise Refused(400, f"the model's chat template refuses: {str(error)[:200]}",
                          param="messages") from None  # fmt: skip
        said = self.tokenizer(text, add_special_tokens=False, verbose=False)
        found: list[int] = said["input_ids"]
        return found

    # -- on the way out --

    async def _answer(
        self, http: HttpRequest, asked: Asked, prompts: list[list[int]], echoed: list[str]
    ) -> Response:
        queue: asyncio.Queue[tuple[int, Token]] = asyncio.Queue()
        choices = self._submit(asked, prompts, queue)
        chat = isinstance(asked, ChatAsked)
        shape = Shape(f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", self.name, chat,
                      self.tokenizer)  # fmt: skip
        texts = [echoed[i // asked.n] if echoed else "" for i in range(len(choices))]
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            events = self._events(shape, choices, texts, queue, usage=usage)
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
                        ends=self.ends, vocabulary=self.vocabulary, choice=j,
                    )  # fmt: skip

                    def sink(_request: Request, token: Token, at: int = index) -> None:
                        loop.call_soon_threadsafe(queue.put_nowait, (at, token))

                    request = self.worker.submit(prompt, sampling, sink)
                    text = TextStream(self.tokenizer, asked.stop,
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
        queue: asyncio.Queue[tuple[int, Token]], *, usage: bool,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        begun: set[int] = set()
        async for choice, piece in self._each(choices, queue):
            if piece or choice.finish or choice.told:
                first = choice.index not in begun
                begun.add(choice.index)
                yield _event(shape.chunk(choice, piece, first=first, prompt=prompts[choice.index]))
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


def _refused(error: ValidationError) -> Refused:
    """Every mistake, each with its field."""
    said, fields = [], []
    for one in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in one["loc"])
        fields.append(str(one["loc"][0]) if one["loc"] else "")
        said.append(f"{name}: {one['msg']}" if name else one["msg"].removeprefix("Value error, "))
    return Refused(400, "; ".join(dict.fromkeys(said))[:2000], param=fields[0] or None)


class _Guard:
    """Keys, and clients that take nothing."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._server.api_key and scope["path"].startswith("/v1") and not self._known(scope):
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
        server.threads.shutdown(wait=False, cancel_futures=True)

    handlers: dict[Any, Handler] = {
        Refused: refused, HTTPException: wrong_door, ClientDisconnect: gone
    }  # fmt: skip
    routes = [
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/models", server.models), Route("/health", server.health),
        Route("/metrics", server.metrics_text),
    ]  # fmt: skip
    return _Guard(Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan), server)
