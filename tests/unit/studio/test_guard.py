"""Who may speak to the studio: hosts, origins, other sites, tokens, bodies."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from weftline.studio.guard import MOST_BODY_BYTES, Guard, Rules
from weftline.studio.options import StudioOptions
from weftline.studio.start import rules_of

SECRET = "s3cret"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104  (nothing is bound)
LOCAL = Rules(names=frozenset({"localhost", "127.0.0.1", "::1"}), port=8321)
TOKEN = Rules(names=frozenset({"box"}), any_address=True, token=SECRET, port=8321)


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())}")


def client(rules: Rules, base: str = "http://127.0.0.1:8321") -> TestClient:
    routes = [Route(p, _echo, methods=["GET", "POST"]) for p in ("/", "/ask")]
    return TestClient(Guard(Starlette(routes=routes), rules), base_url=base, follow_redirects=False)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8321", 200), ("localhost:9000", 200), ("LOCALHOST", 200), ("[::1]:8321", 200),
        ("localhost.:8321", 200), ("evil.example", 421), ("127.0.0.1.evil.example:8321", 421),
        ("192.168.0.7:8321", 421), ("", 421), ("localhost@evil.example", 421), ("[::1", 421),
        ("127.0.0.1/x", 421), ("2130706433", 421),
    ],
)  # fmt: skip
def test_a_name_bound_anew_to_this_machine_is_turned_away(host: str, status: int) -> None:
    assert client(LOCAL).get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8321", 200), (None, 403), ("null", 403), ("http://evil.example", 403),
        ("http://127.0.0.1:9999", 403), ("http://localhost:8321", 403),
        ("http://127.0.0.1:8321.evil.example", 403),
    ],
)  # fmt: skip
def test_another_site_changes_nothing(origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"origin": origin}
    assert client(LOCAL).post("/ask", headers=headers).status_code == status


def test_other_methods_are_changes_too() -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert client(LOCAL).request(method, "/").status_code == 403


@pytest.mark.parametrize(
    ("path", "site", "mode", "status"),
    [
        ("/", "cross-site", "navigate", 200), ("/", "cross-site", "no-cors", 403),
        ("/ask", "cross-site", "navigate", 403), ("/ask", "same-site", "cors", 403),
        ("/ask", "same-origin", "cors", 200), ("/ask", "none", "navigate", 200),
    ],
)  # fmt: skip
def test_another_site_may_only_open_the_first_page(
    path: str, site: str, mode: str, status: int
) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
    assert client(LOCAL).get(path, headers=headers).status_code == status


def test_a_token_comes_by_url_and_stays_in_a_cookie() -> None:
    browser = client(TOKEN, "http://box:8321")
    assert browser.get("/").status_code == 401
    assert browser.get("/?token=wrong").status_code == 401
    assert browser.get("/ask?token=s3cret").status_code == 401  # on the first page alone
    entered = browser.get("/?token=s3cret&model=%22%3E%3Cscript%3E")
    assert entered.status_code == 200
    assert "s3cret" not in entered.text
    assert "<script>" not in entered.text
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert browser.get("/ask").status_code == 200
    other = client(TOKEN, "http://box:8321")
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert 'http-equiv="refresh"' in other.get("/?kind=train", headers=link).text
    assert other.get("/?kind=train").status_code == 401


def test_bodies_are_bounded_with_and_without_a_length() -> None:
    good = {"origin": "http://127.0.0.1:8321"}
    here = client(LOCAL)
    assert here.post("/ask", content=b"x" * MOST_BODY_BYTES, headers=good).status_code == 200
    assert here.post("/ask", content=b"x" * (MOST_BODY_BYTES + 1), headers=good).status_code == 413

    def endless() -> object:
        for _ in range(1000):
            yield b"x" * 4096

    assert here.post("/ask", content=endless(), headers=good).status_code == 413  # type: ignore[arg-type]


def test_every_answer_forbids_what_is_not_its_own() -> None:
    for path in ("/", "/nowhere"):
        headers = client(LOCAL).get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_a_token_is_asked_for_where_others_can_reach_it() -> None:
    assert rules_of(StudioOptions(), host="127.0.0.1", port=1).token == ""
    assert rules_of(StudioOptions(token=True), host="127.0.0.1", port=1).token
    anywhere = StudioOptions(host=EVERYWHERE, allow_host="Plans.example")
    wide = rules_of(anywhere, host=EVERYWHERE, port=1)
    assert len(wide.token) >= 32
    assert wide.knows("10.1.2.3:80")
    assert wide.knows("plans.example")
    assert not wide.knows("evil.example")
    one = rules_of(StudioOptions(host="10.0.0.5"), host="10.0.0.5", port=1)
    assert one.knows("10.0.0.5:1")
    assert not one.knows("10.0.0.6:1")
