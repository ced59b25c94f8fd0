"""The studio whole: questions answered as the command line answers them, nothing hostile done."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.testclient import TestClient

from weftline.cli.main import run
from weftline.studio.app import Studio, app_of
from weftline.studio.guard import Rules
from weftline.studio.history import History
from weftline.studio.pool import Size

BASE = "http://127.0.0.1:8321"
SMALL = {"kind": "train", "model": "llama-3.1-8b", "tokens": "1B", "on": "h100-sxm", "chips": "8"}
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror='window.broken=1'>"
CONFIG = json.dumps({
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 32000,
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 16,
    "max_position_embeddings": 2048, "tie_word_embeddings": False, "architectures": [HOSTILE],
})  # fmt: skip


class Browser(TestClient):
    """A client as a browser is one: its Origin with every POST."""

    def asked(self, **fields: str) -> str:
        """The job of a question."""
        answer = self.post("/ask", data=fields)
        assert answer.status_code == 200, answer.text
        return re.search(r"/jobs/([\w-]+)/events", answer.text)[1]  # type: ignore[index]

    def answered(self, **fields: str) -> str:
        """What a question is answered with, once its events have ended."""
        job = self.asked(**fields)
        events = self.get(f"/jobs/{job}/events").text
        assert events.endswith("event: end\ndata: done\n\n"), events[-200:]
        return self.get(f"/jobs/{job}").text


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    path = tmp_path_factory.mktemp("studio") / "history.sqlite3"
    rules = Rules(names=frozenset({"127.0.0.1"}), port=8321)
    return Studio(history=History(path, 50), size=Size(workers=1, limit_s=60), rules=rules)


@pytest.fixture(scope="module")
def browser(studio: Studio) -> Iterator[Browser]:
    with Browser(app_of(studio), base_url=BASE, headers={"origin": BASE}) as client:
        assert client.get("/").status_code == 200
        yield client


def _id(text: str) -> str:
    return re.search(r'data-answer="(\w+)"', text)[1]  # type: ignore[index]


def _printed(words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run([*words, "--json"]) == 0
    return out.getvalue()


def test_the_command_that_is_shown_gives_the_same_answer(
    browser: Browser, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bundled model and of a pasted one: the same plan to the byte, by the command shown."""
    monkeypatch.chdir(tmp_path)
    for question in (SMALL, SMALL | {"model": "my <b>model</b>", "config_text": CONFIG,
                                     "objective": "cost", "overlap": "off"}):  # fmt: skip
        text = browser.answered(**question)
        name = _id(text)
        entry, _ = studio.history.find(name) or pytest.fail("not kept")
        assert "<script" not in text
        assert "<b>model" not in text
        config = browser.get(f"/answers/{name}/config")
        if "config_text" in question:
            file = re.search(r'filename="([\w.-]+)"', config.headers["content-disposition"])
            assert file is not None
            (tmp_path / file[1]).write_text(config.text)

        assert f"<code>{entry.command}</code>" in text
        words = shlex.split(entry.command)
        assert words[0] == "weftline"
        mine = browser.get(f"/answers/{name}/plan.json")
        assert json.loads(_printed(words[1:])) == json.loads(mine.text)
        assert str(tmp_path) not in mine.text


def test_an_answer_is_exported_shown_again_and_forgotten(
    browser: Browser, studio: Studio, tmp_path: Path
) -> None:
    name = _id(browser.answered(**SMALL))
    listed = browser.get(f"/answers/{name}/export", params={"to": "slurm", "name": "my-job"})
    assert "my-job" in listed.text
    assert "sbatch" in listed.text
    packed = browser.get(f"/answers/{name}/export.zip", params={"to": "slurm", "name": "my-job"})
    with zipfile.ZipFile(io.BytesIO(packed.content)) as files:
        assert {n.partition("/")[0] for n in files.namelist()} == {"my-job"}
        files.extractall(tmp_path)
    assert run(["export", str(tmp_path / "my-job"), "--check"]) == 0
    about = browser.get(f"/answers/{name}/about").text
    assert "Recompute this answer" in about
    assert "Recompute C14" in about  # the catalogue's claim on this chip's datasheet
    assert "holds" in browser.get(f"/answers/{name}/audit", params={"claim": "C14"}).text
    assert browser.get(f"/answers/{name}/export", params={"to": "../x"}).status_code == 422
    page = browser.get(f"/answers/{name}/page.html").text
    assert 'http-equiv="Content-Security-Policy"' in page
    studio._shown.clear()  # as after the studio was started again
    assert _id(browser.get(f"/answers/{name}").text) == name
    assert browser.get("/", params={"answer": name}).text.count(f"/answers/{name}") == 1
    assert name in browser.get("/history").text
    assert name not in browser.post(f"/history/{name}/delete").text
    assert browser.get(f"/answers/{name}").status_code == 404


def test_two_answers_stand_beside_each_other(browser: Browser) -> None:
    first = _id(browser.answered(**SMALL))
    job = browser.asked(**SMALL | {"chips": "16"}, against=first)
    browser.get(f"/jobs/{job}/events")
    both = browser.get(f"/jobs/{job}", params={"against": first})
    assert "train time" in both.text
    ids = re.findall(r'\bid="([^"]+)"', both.text)
    assert len(ids) == len(set(ids))
    shared = dict(parse_qsl(urlsplit(both.headers["hx-replace-url"]).query))
    assert shared["a"] == first
    assert f'hx-get="/compare?a={first}' in browser.get("/", params=shared).text


def test_a_url_asks_its_question_but_not_for_another_site(browser: Browser) -> None:
    answer = browser.post("/ask", data=SMALL)
    place = answer.headers["hx-replace-url"]
    link = {"sec-fetch-mode": "navigate", "sec-fetch-site": "cross-site"}
    assert "delay:300ms, load" in browser.get(place).text
    assert "delay:300ms, load" not in browser.get(place, headers=link).text
    assert "delay:300ms, load" not in browser.get("/").text
    form = browser.get(place).text
    assert 'value="1B"' in form
    assert re.search(r'value="h100-sxm" checked', form)


def test_a_mistake_is_told_with_its_place_and_no_answer_is_an_answer(browser: Browser) -> None:
    wrong = browser.post("/ask", data=SMALL | {"model": HOSTILE, "tokens": ""})
    assert wrong.status_code == 422
    assert "<code>--tokens</code>" in wrong.text
    assert "<img" not in wrong.text
    for field, status in (("layout", 422), ("budget", 200)):
        job = browser.asked(**SMALL | {"layout": "rows=3"} if field == "layout"
                            else SMALL | {"budget": "$0.01"})  # fmt: skip
        assert browser.get(f"/jobs/{job}/events").text.endswith("data: failed\n\n")
        failed = browser.get(f"/jobs/{job}")
        assert failed.status_code == status, failed.text


def test_hostile_text_in_a_url_stays_text(browser: Browser) -> None:
    for name in ("model", "tokens", "kind", "answer", "a", "price", "config"):
        for text in (HOSTILE, "' onfocus=alert(1) autofocus='", "../../etc/passwd"):
            page = browser.get("/", params={"model": "x", name: text})
            assert page.status_code == 200
            assert "<script>window" not in page.text
            assert "<img" not in page.text
            assert not re.search(r"<[^>]*' onfocus", page.text.replace("&#39;", "&"))


@pytest.mark.parametrize("path", [
    "/assets/../studio.css", "/assets/%2e%2e%2fapp.py", "/assets/..%2f..%2fapp.py",
    "/assets/app.py", "/assets//etc/passwd", "/jobs/none", "/answers/..%2f..%2fx/plan.json",
])  # fmt: skip
def test_no_path_leads_to_a_file(browser: Browser, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_what_runs_can_be_stopped_and_the_next_is_answered(
    browser: Browser, studio: Studio
) -> None:
    """The worker of a heavy question is killed at once, by a wish or by the limit."""
    heavy = {"kind": "serve", "model": "deepseek-v3", "rate": "500/s", "on": "all", "ttft": "1s"}
    job = browser.asked(**heavy)
    began = time.monotonic()
    while studio.pool.find(job, _session(browser)).state == "waiting":  # type: ignore[union-attr]
        time.sleep(0.01)
    assert browser.post(f"/jobs/{job}/cancel").text.strip() == "<p>Cancelled.</p>"
    assert browser.get(f"/jobs/{job}/events").text == "event: end\ndata: cancelled\n\n"
    assert time.monotonic() - began < 15
    studio.pool.size = Size(workers=1, limit_s=0.05)
    job = browser.asked(**heavy)
    browser.get(f"/jobs/{job}/events")
    assert "0.05 s, the studio" in browser.get(f"/jobs/{job}").text
    studio.pool.size = Size(workers=1, limit_s=60)
    assert "h100-sxm" in browser.answered(**SMALL)


def test_more_than_the_queue_holds_is_refused_with_the_reason(
    browser: Browser, studio: Studio
) -> None:
    studio.pool.size = Size(workers=1, limit_s=60, per_session=0)
    refused = browser.post("/ask", data=SMALL)
    studio.pool.size = Size(workers=1, limit_s=60)
    assert refused.status_code == 429
    assert "of this session wait already" in refused.text
    assert int(refused.headers["retry-after"]) >= 1
    assert browser.post("/ask", content="a=1&" * 400).status_code == 400


def _session(browser: Browser) -> str:
    return browser.cookies["weftline-session-8321"]


def test_without_the_extra_the_install_line_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run(["studio", "--port", "0"]) == 2
    assert "pip install 'weftline[web]'" in capsys.readouterr().err


def test_all_wrong_options_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["studio", "--limit", "x", "--memory", "y", "--workers", "0", "--keep", "-1"]) == 2
    told: Any = capsys.readouterr().err
    assert all(name in told for name in ("--limit", "--memory", "--workers", "--keep"))


@pytest.mark.slow
def test_a_fleet_is_answered_as_by_the_command_and_both_kinds_are_audited(
    browser: Browser, studio: Studio
) -> None:
    """A serving plan takes a quarter of a minute; the claims plan again."""
    fleet = {"kind": "serve", "model": "llama-3.1-8b", "rate": "40/s", "input": "1000",
             "output": "200", "ttft": "300ms", "on": "h100-sxm", "precision": "bf16",
             "engine": "vllm"}  # fmt: skip
    for question in (fleet, SMALL | {"tokens": "100B"}):
        name = _id(browser.answered(**question))
        entry, plan = studio.history.find(name) or pytest.fail("not kept")
        mine, printed = json.loads(plan), json.loads(_printed(shlex.split(entry.command)[1:]))
        for found in (mine, printed):
            found["search"].pop("seconds", None)  # by the clock
        assert mine == printed
        audited = browser.get(f"/answers/{name}/audit", params={"claim": "this-answer"})
        assert audited.status_code == 200, audited.text
        verdict = re.search(r"<strong>(\w+)</strong>", audited.text)
        assert verdict is not None
        assert verdict[1] in ("holds", "conditional")
