"""The pages of the studio: a question and its answer, past answers, what can be done with them.

Handlers read, queue and show; whatever takes time is done by the pool's processes.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from weftline._version import __version__
from weftline.errors import InputError
from weftline.model.load import bundled_index
from weftline.studio.controls import EXAMPLES, chips, groups
from weftline.studio.guard import Guard, Rules, cookies_of
from weftline.studio.history import Entry, History, now_s
from weftline.studio.pool import Full, Job, Pool, Size
from weftline.studio.question import kind_of, read_question
from weftline.studio.views import archive, asset_of, rendered
from weftline.studio.worker import failure

__all__ = ["Studio", "app_of"]

MOST_FIELDS: Final = 300
_SHOWN: Final = 64
"""Answers kept as they are shown, so that one that was just made is not made again."""
_ALIVE_EVERY_S: Final = 15.0
_NO_STORE: Final = {"cache-control": "no-store"}
_FAILED_STATUS: Final = {1: 500, 2: 422, 3: 200}
"""By exit code: no feasible answer is an answer."""


class Stop(Exception):  # noqa: N818  (an answer, not a failure)
    """A request that ends with this answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


@dataclass(eq=False)
class Studio:
    """The pool, the history, and the handlers over both."""

    history: History
    size: Size
    rules: Rules
    pool: Pool = field(init=False)
    _shown: OrderedDict[str, dict[str, Any]] = field(default_factory=OrderedDict)

    # -- the page --

    async def index(self, request: Request) -> Response:
        """``GET /``: the form, filled from the URL; an answer is asked for by the page itself."""
        pairs = _pairs(request.url.query)
        shown = dict(pairs).get("answer", "")
        kept = self.history.find(shown)
        if kept is not None:
            pairs = _pairs(kept[0].query)
        sent = dict(pairs)
        sent["on"] = ",".join(text for name, text in pairs if name == "on" and text)
        asked, wrong = None, []
        kind = kind_of(sent)
        given = bool(sent.keys() & {"model", "config"})
        if given:
            try:
                asked = read_question(pairs)
            except InputError as error:
                wrong = failure(error)["errors"]
        values = sent if given else {**EXAMPLES[kind], "kind": kind}
        past = [sent[n] for n in ("a", "b") if self.history.find(sent.get(n, ""))]
        # Typed, a bookmark or from a mail: yes. A link of another site makes nobody compute.
        own = request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        body = rendered(
            "index.html", kind=kind, values=values, config=asked.config if asked else "",
            groups=groups(kind), chips=chips(),
            picked=frozenset(filter(None, values.get("on", "").split(","))),
            models=[(m.name, m.hf_id or "") for m in bundled_index().values()], wrong=wrong,
            ask_now=asked is not None and own and kept is None,
            compared=past if len(past) == 2 else [], shown=shown if kept else "",
        )  # fmt: skip
        response = HTMLResponse(body, headers=_NO_STORE)
        if not self._session(request):
            response.set_cookie(self._cookie, secrets.token_urlsafe(16), httponly=True,
                                samesite="strict", path="/", max_age=30 * 86400)  # fmt: skip
        return response

    async def form(self, request: Request) -> Response:
        """``GET /form``: the controls of the other kind, with what both have in common."""
        sent = dict(_pairs(request.url.query))
        kind = kind_of(sent)
        kept = {n: sent[n] for n in ("model", "price", "discount", "region") if sent.get(n)}
        values = dict(EXAMPLES[kind]) | kept
        return HTMLResponse(rendered(
            "controls.html", kind=kind, values=values, groups=groups(kind), chips=chips(),
            picked=frozenset(values["on"].split(",")),
        ), headers=_NO_STORE)  # fmt: skip

    async def asset(self, request: Request) -> Response:
        """``GET /assets/NAME``"""
        found = asset_of(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(found.body, media_type=found.media_type, headers=kept)

    # -- asking --

    async def ask(self, request: Request) -> Response:
        """``POST /ask``: queue a question; what is shown in the meantime."""
        session = self._needed_session(request)
        pairs = _pairs((await request.body()).decode("utf-8", "replace"))
        sent = dict(pairs)
        try:
            question = read_question(pairs)
        except InputError as error:
            return self._failed(failure(error))
        old = self.pool.find(sent.get("replaces", ""), session)
        if old is not None:
            self.pool.cancel(old)
        prefix = f"a{secrets.token_hex(4)}-"
        job = self._queued(session, "plan", {"query": question.query(), "prefix": prefix})
        against = sent.get("against", "")
        text = rendered("job.html", job=job, question=question, ahead=self.pool.ahead(job),
                        against=against if self.history.find(against) else "")  # fmt: skip
        place = f"/?{question.query()}" if question.shareable else f"/?kind={question.kind}"
        return HTMLResponse(text, headers={**_NO_STORE, "hx-replace-url": place})

    async def events(self, request: Request) -> Response:
        """``GET /jobs/ID/events``: progress until the job has ended."""
        job = self._job(request)
        return StreamingResponse(self._progress(job), media_type="text/event-stream",
                                 headers=_NO_STORE)  # fmt: skip

    async def _progress(self, job: Job) -> AsyncIterator[str]:
        before = ""
        while not job.ended:
            change = job.change(_ALIVE_EVERY_S)
            text = rendered("progress.html", job=job, ahead=self.pool.ahead(job))
            yield _event("progress", text) if text != before else ": still here\n\n"
            before = text
            await change
        yield _event("end", job.state)

    async def cancel(self, request: Request) -> Response:
        """``POST /jobs/ID/cancel``"""
        self.pool.cancel(self._job(request))
        return HTMLResponse(rendered("said.html", text="Cancelled."), headers=_NO_STORE)

    async def job(self, request: Request) -> Response:
        """``GET /jobs/ID``: the answer, the two beside each other, or why there is none."""
        job = self._job(request)
        if not job.ended:
            return HTMLResponse("", status_code=202, headers=_NO_STORE)
        if job.state == "failed":
            return self._failed(job.failed)
        if job.state == "cancelled":
            return HTMLResponse(rendered("said.html", text="Cancelled."), headers=_NO_STORE)
        against = request.query_params.get("against", "")
        if against and against != job.result["id"] and self.history.find(against):
            return await self._compared(request, against, job.result["id"])
        return self._answered(job.result["id"], job.result)

    # -- answers --

    async def _keep(self, job: Job) -> None:
        """Into the history, when the pool has an answer; before anybody is told of it."""
        if job.task != "plan":
            return
        question = read_question(_pairs(job.asked["query"]))
        name = secrets.token_hex(8)
        entry = Entry(id=name, made_s=now_s(), kind=question.kind,
                      headline=job.result["headline"], query=job.asked["query"],
                      command=question.command(), version=__version__)  # fmt: skip
        try:
            await asyncio.to_thread(self.history.add, entry, job.result["plan"])
        except sqlite3.Error as error:
            job.fail(f"the answer could not be kept: {error}", "--history another.sqlite3")
            return
        job.result = {"id": name, **{k: job.result[k] for k in ("headline", "html", "charts")}}
        self._remember(name, job.result)

    def _remember(self, name: str, shown: dict[str, Any]) -> None:
        self._shown[name] = shown
        self._shown.move_to_end(name)
        while len(self._shown) > _SHOWN:
            self._shown.popitem(last=False)

    def _answered(self, name: str, shown: Mapping[str, Any]) -> Response:
        entry, _ = self._entry(name)
        question = read_question(_pairs(entry.query))
        text = rendered("answer.html", entry=entry, shown=shown, question=question)
        return HTMLResponse(text, headers={**_NO_STORE, "hx-trigger": "answered"})

    async def answer(self, request: Request) -> Response:
        """``GET /answers/ID``"""
        name = request.path_params["name"]
        if name not in self._shown:
            _, plan = self._entry(name)
            asked = {"plan": plan, "prefix": f"a{name[:8]}-"}
            self._remember(name, await self._result(request, "show", asked))
        return self._answered(name, self._shown[name])

    async def compare(self, request: Request) -> Response:
        """``GET /compare?a=ID&b=ID``"""
        first, second = (request.query_params.get(n, "") for n in ("a", "b"))
        return await self._compared(request, first, second)

    async def _compared(self, request: Request, first: str, second: str) -> Response:
        (one, plan_one), (two, plan_two) = self._entry(first), self._entry(second)
        asked = {"first": plan_one, "second": plan_two, "prefix": f"c{secrets.token_hex(4)}-"}
        found = await self._result(request, "compare", asked)
        text = rendered("compare.html", entries=(one, two), found=found)
        headers = {"hx-trigger": "answered", "hx-replace-url": f"/?a={one.id}&b={two.id}"}
        return HTMLResponse(text, headers=_NO_STORE | headers)

    async def pin(self, request: Request) -> Response:
        """``GET /pin?answer=ID``: what the next answer is to be compared with; nothing without."""
        found = self.history.find(request.query_params.get("answer", ""))
        return HTMLResponse(rendered("pin.html", entry=found[0] if found else None),
                            headers=_NO_STORE)  # fmt: skip

    async def about(self, request: Request) -> Response:
        """``GET /answers/ID/about``: targets to export to, claims to recompute."""
        entry, plan = self._entry(request.path_params["name"])
        found = await self._result(request, "about", {"plan": plan, "query": entry.query})
        return HTMLResponse(rendered("about.html", entry=entry, found=found), headers=_NO_STORE)

    async def plan_file(self, request: Request) -> Response:
        """``GET /answers/ID/plan.json``: what ``-o plan.json`` writes."""
        _, plan = self._entry(request.path_params["name"])
        return _file(plan.encode(), "plan.json", "application/json")

    async def config_file(self, request: Request) -> Response:
        """``GET /answers/ID/config``: what was pasted, under the name that the command has."""
        entry, _ = self._entry(request.path_params["name"])
        question = read_question(_pairs(entry.query))
        if not question.file_name:
            raise HTTPException(404)
        return _file(question.config.encode(), question.file_name, "application/json")

    async def page_file(self, request: Request) -> Response:
        """``GET /answers/ID/page.html``: the self-contained page."""
        _, plan = self._entry(request.path_params["name"])
        found = await self._result(request, "page", {"plan": plan})
        return _file(found["html"].encode(), "plan.html", "text/html")

    async def export(self, request: Request) -> Response:
        """``GET /answers/ID/export?to=TARGET``: the files, listed or (export.zip) packed."""
        entry, plan = self._entry(request.path_params["name"])
        words = ("to", "name", "command", "image", "hosts", "set")
        given = {w: request.query_params.get(w, "")[:2000] for w in words}
        asked = {"plan": plan, "query": entry.query, **given}
        found = await self._result(request, "export", asked)
        if request.url.path.endswith(".zip"):
            packed = archive(found["name"], found["files"], frozenset(found["programs"]))
            return _file(packed, f"{found['name']}-{found['target']}.zip", "application/zip")
        text = rendered("export.html", entry=entry, found=found,
                        given={k: v for k, v in given.items() if v})  # fmt: skip
        return HTMLResponse(text, headers=_NO_STORE)

    async def audit(self, request: Request) -> Response:
        """``GET /answers/ID/audit?claim=C17``: a claim recomputed, or the answer as one."""
        entry, plan = self._entry(request.path_params["name"])
        claim = request.query_params.get("claim", "")
        if not claim.replace("-", "").isalnum():
            raise HTTPException(404)
        asked = {"plan": plan, "query": entry.query, "claim": claim}
        found = await self._result(request, "audit", asked)
        return HTMLResponse(rendered("audit.html", found=found), headers=_NO_STORE)

    # -- history --

    async def past(self, _request: Request) -> Response:
        """``GET /history``"""
        return HTMLResponse(rendered("history.html", entries=self.history.entries(),
                                     keep=self.history.keep), headers=_NO_STORE)  # fmt: skip

    async def forget(self, request: Request) -> Response:
        """``POST /history/ID/delete`` and ``POST /history/clear``"""
        name = request.path_params.get("name")
        if name is None:
            await asyncio.to_thread(self.history.clear)
            self._shown.clear()
        else:
            self.history.delete(name)
            self._shown.pop(name, None)
        return await self.past(request)

    async def health(self, _request: Request) -> Response:
        """``GET /health``: how many wait."""
        return Response(f'{{"waiting": {self.pool.waiting}}}\n', media_type="application/json")

    # -- what they share --

    @property
    def _cookie(self) -> str:
        return f"weftline-session-{self.rules.port}"

    def _session(self, request: Request) -> str:
        return cookies_of(request.headers).get(self._cookie, "")[:64]

    def _needed_session(self, request: Request) -> str:
        session = self._session(request)
        if not session:
            raise Stop(self._failed(_said("this browser keeps no cookie of the studio",
                                          "open the first page again"), 403))  # fmt: skip
        return session

    def _job(self, request: Request) -> Job:
        found = self.pool.find(request.path_params["name"], self._session(request))
        if found is None:
            raise HTTPException(404)
        return found

    def _entry(self, name: str) -> tuple[Entry, str]:
        found = self.history.find(name)
        if found is None:
            raise Stop(self._failed(_said("this answer is not in the history any more", ""), 404))
        return found

    def _queued(self, session: str, task: str, asked: Mapping[str, Any]) -> Job:
        try:
            return self.pool.submit(session, task, asked)
        except Full as full:
            said = _said(f"Too many questions: {full.reason}.",
                         f"ask again in about {full.retry_after_s} s")  # fmt: skip
            answer = self._failed(said, 429)
            answer.headers["retry-after"] = str(full.retry_after_s)
            raise Stop(answer) from None

    async def _result(
        self, request: Request, task: str, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a task gives; it is cancelled where nobody waits for it any more."""
        job = self._queued(self._needed_session(request), task, asked)
        ending = asyncio.ensure_future(job.end())
        try:
            while not ending.done():
                await asyncio.wait({ending}, timeout=1.0)
                if not ending.done() and await request.is_disconnected():
                    break
        finally:
            ending.cancel()
            self.pool.forget(job)
        if job.state == "done":
            return job.result
        raise Stop(self._failed(job.failed or _said("Cancelled.", "")))

    def _failed(self, failed: Mapping[str, Any], status: int | None = None) -> Response:
        text = rendered("failed.html", failed=failed, nearest=failed.get("nearest", ""))
        status = status or _FAILED_STATUS.get(int(failed["code"]), 500)
        return HTMLResponse(text, status_code=status, headers=_NO_STORE)


def _said(what: str, hint: str) -> dict[str, Any]:
    return {"code": 1, "errors": [{"what": what, "where": "", "hint": hint}]}


def _pairs(text: str) -> list[tuple[str, str]]:
    """The fields of a form or a query. Raises HTTPException where there are too many."""
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise HTTPException(400, f"more than {MOST_FIELDS} fields") from None


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


def _file(body: bytes, name: str, media_type: str) -> Response:
    return Response(body, media_type=media_type, headers={
        **_NO_STORE, "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "sandbox; default-src 'none'",
    })  # fmt: skip


def app_of(studio: Studio) -> ASGIApp:
    """The application for an ASGI server, behind its guard; it starts and ends the workers."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        studio.pool = Pool(studio.size, after=studio._keep)
        await studio.pool.start()
        try:
            yield
        finally:
            await studio.pool.stop()
            studio.history.close()

    async def stopped(_request: Request, stop: Exception) -> Response:
        assert isinstance(stop, Stop)  # noqa: S101
        return stop.response

    get = {
        "/": studio.index, "/form": studio.form, "/assets/{name}": studio.asset,
        "/jobs/{name}": studio.job, "/jobs/{name}/events": studio.events,
        "/answers/{name}": studio.answer, "/answers/{name}/about": studio.about,
        "/answers/{name}/plan.json": studio.plan_file,
        "/answers/{name}/config": studio.config_file,
        "/answers/{name}/page.html": studio.page_file,
        "/answers/{name}/export": studio.export, "/answers/{name}/export.zip": studio.export,
        "/answers/{name}/audit": studio.audit, "/compare": studio.compare, "/pin": studio.pin,
        "/history": studio.past, "/health": studio.health,
    }  # fmt: skip
    post = {
        "/ask": studio.ask, "/jobs/{name}/cancel": studio.cancel,
        "/history/clear": studio.forget, "/history/{name}/delete": studio.forget,
    }  # fmt: skip
    routes = [Route(place, handler, methods=["GET"]) for place, handler in get.items()]
    routes += [Route(place, handler, methods=["POST"]) for place, handler in post.items()]
    app = Starlette(routes=routes, exception_handlers={Stop: stopped}, lifespan=lifespan)
    return Guard(app, studio.rules)
