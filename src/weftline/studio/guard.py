"""Who may speak to the studio: the outermost layer, before any of its pages.

- Host must be an address or a name that the user gave: a site whose name is bound anew to this
  machine (DNS rebinding) is turned away.
- What changes something needs an Origin that is this Host; browsers send one with every POST, and
  no other site can send this one.
- Other sites may navigate to the first page and load nothing (Fetch Metadata).
- Elsewhere than on loopback a token is needed: from the URL once, from then on in a cookie that
  scripts cannot read and that no other site's request carries.
- Bodies are bounded in size and time. Every answer forbids scripts, frames and requests that are
  not its own.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["POLICY", "Guard", "Rules", "cookies_of"]

MOST_BODY_BYTES: Final = 192 << 10
"""A pasted config of 64 KB may grow threefold when it is encoded."""
BODY_S: Final = 30.0
"""To send a request in full."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""No inline script, no inline style sheet; charts place their labels by style attributes."""
_HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_SAFE: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Whom the guard lets in."""

    names: frozenset[str]
    """Host names, in small letters and without port."""
    any_address: bool = False
    """Whether any IP address is one of ours; a rebound name is never an address."""
    token: str = ""
    """What must be known; "" lets everybody who passes the rest in."""
    port: int = 0
    """Cookies of one host are shared by its ports: ours carry it in their names."""

    @property
    def cookie(self) -> str:
        """The name of the cookie with the token."""
        return f"weftline-token-{self.port}"

    def knows(self, host: str) -> bool:
        """Whether ``host``, as a request names it, is this studio."""
        name = _name_of(host)
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address


def _name_of(host: str) -> str:
    """The host without its port, brackets and case; "" where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        if parts.path or parts.query or parts.fragment or "@" in host:
            return ""
        return (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def cookies_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The cookies of a request; none where they cannot be read."""
    try:
        return {k: m.value for k, m in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


class Guard:
    """The application behind its rules."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or turn away."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {k for k, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(
                    (k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in given
                )]  # fmt: skip
            await send(message)

        refused = self._refused(scope, headers)
        if refused is None and scope["method"] not in _SAFE:
            body = await _body(headers, receive)
            if isinstance(body, Response):
                refused = body
            else:
                receive = _replayed(body, receive)
        await (refused or self._app)(scope, receive, guarded)

    def _refused(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """What is answered instead; None where the request may pass."""
        host = headers.get("host", "")
        if not self._rules.knows(host):
            return _no(421, "this studio is not called that: open it by the address it printed, "
                       "or start it with --allow-host")  # fmt: skip
        if scope["method"] not in _SAFE:
            origin = headers.get("origin", "")
            if origin not in (f"http://{host}", f"https://{host}"):
                return _no(403, "only this studio's own page may change something")
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        foreign = site in ("cross-site", "same-site")
        if foreign and not (mode == "navigate" and scope["method"] == "GET"
                            and scope["path"] == "/"):  # fmt: skip
            return _no(403, "another site may open the studio's first page, and nothing else")
        return self._unknown(scope, headers, foreign=foreign) if self._rules.token else None

    def _unknown(
        self, scope: Scope, headers: Mapping[str, str], *, foreign: bool
    ) -> Response | None:
        rules = self._rules
        if _same(cookies_of(headers).get(rules.cookie, ""), rules.token):
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(asked).get("token", "")
        if scope["path"] == "/" and _same(given, rules.token):
            rest = urlencode([(k, v) for k, v in asked if k != "token"])
            answer = _again("/" + (f"?{rest}" if rest else ""))
            answer.set_cookie(rules.cookie, rules.token, httponly=True, samesite="strict", path="/")
            return answer
        if foreign and not given:
            # A link from elsewhere comes without our cookie; our own page may ask with it.
            query = scope["query_string"].decode("latin-1")
            return _again("/" + (f"?{urlencode(asked)}" if query else ""))
        return _no(401, "open the studio by the URL that it printed: the token is in it")


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _again(place: str) -> Response:
    """A page that opens another of ours: a redirect would still count as the other site's."""
    from html import escape

    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>weftline studio</title>'
        f'<meta http-equiv="refresh" content="0; url={escape(place, quote=True)}">'
        f'<p><a href="{escape(place, quote=True)}">Open the studio</a></p></html>',
        headers={"cache-control": "no-store", "referrer-policy": "no-referrer"},
    )


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=status, headers={"cache-control": "no-store"})


async def _body(headers: Mapping[str, str], receive: Receive) -> bytes | Response:
    """The whole body, or what to answer in its place."""
    said = headers.get("content-length", "")
    too_large = _no(413, f"a request holds at most {MOST_BODY_BYTES:,} bytes")
    if said.isdigit() and int(said) > MOST_BODY_BYTES:
        return too_large
    found = bytearray()

    async def all_of_it() -> None:
        more = True
        while more and len(found) <= MOST_BODY_BYTES:
            message = await receive()
            found.extend(message.get("body", b""))
            more = message.get("more_body", False) and message["type"] == "http.request"

    try:
        await asyncio.wait_for(all_of_it(), BODY_S)
    except TimeoutError:
        return _no(408, "the request did not come in full in time")
    return too_large if len(found) > MOST_BODY_BYTES else bytes(found)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What an application receives: the body in one piece, then whatever follows."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
