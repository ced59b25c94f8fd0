"""A model served: weights read, cache sized, engine and HTTP server started, and ended in order."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from weftline.errors import InputError, InputErrors
from weftline.runtime.server.options import EngineOptions, ServerOptions
from weftline.units import format_bytes, parse_bytes, parse_duration_s, parse_fraction

__all__ = ["KEY_VARIABLE", "Ready", "engine_of", "listen", "serve"]

KEY_VARIABLE = "WEFTLINE_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Ready:
    """An engine over a loaded model, and what to say of it."""

    engine: Any
    tokenizer: Any
    ends: frozenset[int]
    vocabulary: int
    notes: tuple[str, ...]


def engine_of(place: Path, options: EngineOptions) -> Ready:
    """Load the model in ``place`` and make its engine. Raises InputError(s)."""
    _check(options)
    from weftline.spec.attention_text import parse_policy

    policy = parse_policy(options.policy) if options.policy else None
    try:
        import torch

        from weftline.runtime.server.engine.loop import Engine
        from weftline.runtime.server.engine.model import PagedModel
        from weftline.runtime.server.engine.weights import load
    except ImportError as error:
        raise InputError(f"{error.name} is needed to serve",
                         hint="pip install 'weftline[run,web]'") from None  # fmt: skip
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    loaded = load(place, options)
    kind = loaded.dtype if options.kv == "auto" else options.kv
    model = PagedModel(loaded.model, page=options.page, kind=kind, policy=policy)
    room = _kv_bytes(options.kv_memory)
    pages = int(room // model.page_bytes)
    if pages < 2:
        raise InputError(f"a page takes {format_bytes(model.page_bytes)}; the KV cache has "
                         f"{format_bytes(room)}", where="--kv-memory")  # fmt: skip
    most = options.max_len or int(getattr(model.config, "max_position_embeddings", 0) or 1 << 20)
    pages = min(pages, 1 + options.max_sequences * -(-most // options.page))
    engine = Engine.over(
        model, pages=pages, sequences=options.max_sequences, tokens=options.chunk_tokens,
        max_len=options.max_len, max_waiting=options.max_waiting,
        prefix_cache=options.prefix_cache,
    )  # fmt: skip
    notes = [
        f"weights in {loaded.dtype}, read in {loaded.seconds:.1f} s", *loaded.notes,
        f"KV cache of {pages - 1:,} pages of {options.page} tokens in {kind}, "
        f"{format_bytes(pages * model.page_bytes)}; a sequence holds {engine.max_len:,} tokens",
    ]  # fmt: skip
    return Ready(engine, loaded.tokenizer, _ends(loaded.model), model.config.vocab_size,
                 tuple(notes))  # fmt: skip


def serve(
    place: Path, options: EngineOptions, server: ServerOptions, say: Callable[[str], None]
) -> int:
    """Serve until told to stop; 0 if that went in order. Raises InputError(s)."""
    key = _key(server)
    grace = parse_duration_s(server.grace, where="--grace")
    listening = listen(server)
    try:
        import uvicorn

        from weftline.runtime.server.engine.worker import Worker
        from weftline.runtime.server.http.app import Server, app_of
        from weftline.runtime.server.http.tokens import Tokens
    except ImportError as error:
        raise InputError(f"{error.name} is needed to serve",
                         hint="pip install 'weftline[run,web]'") from None  # fmt: skip
    ready = engine_of(place, options)
    for note in ready.notes:
        say(note)
    if server.host not in LOOPBACK and key is None:
        say(f"anyone who reaches {server.host} may use this server: set {KEY_VARIABLE}")
    worker = Worker(ready.engine).start()
    app = app_of(Server(
        worker=worker, name=server.name or place.resolve().stem, ends=ready.ends, api_key=key,
        tokens=Tokens(ready.tokenizer, ready.vocabulary, ready.engine.max_len),
    ))  # fmt: skip
    host, port = listening.getsockname()[:2]
    say(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}/v1")
    running = uvicorn.Server(uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=max(1, round(grace)),
        timeout_keep_alive=30, limit_concurrency=4096, h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    ))  # fmt: skip
    running.capture_signals = lambda: _told_to_stop(running.handle_exit)  # type: ignore[method-assign]
    running.run(sockets=[listening])
    worker.stop()
    if worker.failed is not None:
        raise worker.failed
    return 0


@contextmanager
def _told_to_stop(end: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the server in order.

    uvicorn's own handlers raise the signal once more at the end, so that a server that drained as
    it should would report that it was killed.
    """
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, end) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _check(options: EngineOptions) -> None:
    found = []
    if options.page % 16 or not 16 <= options.page <= 256:
        found.append(InputError(f"{options.page} tokens are no page of the kernels",
                                where="--page", hint="16, 32, 64, 128 or 256"))  # fmt: skip
    for name in ("max_len", "max_sequences", "chunk_tokens", "max_waiting", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            found.append(InputError(f"{value} is below 1", where=option))
    if found:
        raise found[0] if len(found) == 1 else InputErrors(found)


def _kv_bytes(text: str) -> float:
    if not text.strip().endswith("%"):
        return parse_bytes(text, where="--kv-memory")
    from weftline.runtime.train.machine import this_machine

    return parse_fraction(text, where="--kv-memory") * this_machine().memory_bytes


def _key(server: ServerOptions) -> str | None:
    if server.api_key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = server.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError("cannot be read", where=str(server.api_key_file)) from None
    if not key:
        raise InputError("holds no key", where=str(server.api_key_file))
    return key


def listen(server: ServerOptions) -> socket.socket:
    """The port, taken before the weights are read, so that a mistake shows at once.

    asyncio sends small packets at once only on sockets that name TCP: without it every answer on a
    connection that is kept waits for the client's delayed acknowledgement, 40 ms.
    """
    try:
        family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((server.host, server.port))
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {server.host} port {server.port}: {why}",
                         where="--port", hint="--port 0 takes a free one") from None  # fmt: skip
    return listening


def _ends(model: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    found = getattr(model.generation_config, "eos_token_id", None) or model.config.eos_token_id
    if found is None:
        return frozenset()
    return frozenset(found if isinstance(found, list) else [found])
