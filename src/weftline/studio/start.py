"""The studio started: where it listens, whom it lets in, where it keeps answers, and its end."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from weftline.errors import InputError
from weftline.spec.parse import Collector
from weftline.studio.options import StudioOptions
from weftline.units import parse_bytes, parse_duration_s

if TYPE_CHECKING:
    from weftline.studio.guard import Rules

__all__ = ["LOOPBACK", "rules_of", "serve_studio"]

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_EVERYWHERE: Final = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  (told, with a token)
EXTRA: Final = "pip install 'weftline[web]'"


def serve_studio(options: StudioOptions, say: Callable[[str], None]) -> int:
    """Serve until told to stop; 0 if that went in order.

    ``say`` is told the URL, with its token where one is needed. Raises InputError(s): an option
    that cannot be, a port that is taken, a history that cannot be opened, the extra `web` missing.
    """
    get = Collector()
    limit_s = get(lambda: parse_duration_s(options.limit, where="--limit"))
    memory = get(lambda: parse_bytes(options.memory, where="--memory"))
    if options.workers is not None and options.workers < 1:
        get.errors.append(InputError("one worker at least", where="--workers"))
    if options.keep < 0:
        get.errors.append(InputError("0 answers at least", where="--keep"))
    get.raise_all()
    try:
        import jinja2  # noqa: F401
        import uvicorn

        from weftline.studio.app import Studio, app_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jinja2", "uvicorn", "starlette"):
            raise
        raise InputError(f"{error.name} is needed for the studio", hint=EXTRA) from None
    from weftline.studio.history import History, history_path
    from weftline.studio.pool import Size

    listening = _listen(options)
    host, port = listening.getsockname()[:2]
    rules = rules_of(options, host=host, port=port)
    history = History(options.history or history_path(), options.keep)
    size = Size(workers=options.workers or max(2, len(os.sched_getaffinity(0)) // 2),
                limit_s=limit_s or 300.0, memory_bytes=int(memory or 0))  # fmt: skip
    app = app_of(Studio(history=history, size=size, rules=rules))
    shown = socket.gethostname() if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    query = f"?token={rules.token}" if rules.token else ""
    say(f"studio on http://{shown}:{port}/{query} (Ctrl-C ends it; history in {history.path})")
    server = uvicorn.Server(uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2,
        timeout_keep_alive=30, limit_concurrency=1024, h11_max_incomplete_event_size=128 << 10,
        server_header=False, date_header=False, lifespan="on", ws="none",
    ))  # fmt: skip
    with suppress(KeyboardInterrupt):  # raised again when all has ended: that is how it is ended
        server.run(sockets=[listening])
    return 0


def rules_of(options: StudioOptions, *, host: str, port: int) -> Rules:
    """Whom the guard lets in on this address: names, and a new token where one is needed."""
    from weftline.studio.guard import Rules

    names = {n.strip().lower() for n in options.allow_host.split(",") if n.strip()}
    loopback = host in LOOPBACK or host.startswith("127.")
    if loopback:
        names |= LOOPBACK | {host}
    else:
        names |= {host.lower(), options.host.lower(), socket.gethostname().lower()}
        names |= LOOPBACK if host in _EVERYWHERE else set()
    token = secrets.token_urlsafe(24) if options.token or not loopback else ""
    return Rules(names=frozenset(names - {""}), any_address=host in _EVERYWHERE, token=token,
                 port=port)  # fmt: skip


def _listen(options: StudioOptions) -> socket.socket:
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
        listening.listen(512)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {options.host} port {options.port}: {why}",
                         where="--port", hint="--port 0 takes a free one") from None  # fmt: skip
    return listening
