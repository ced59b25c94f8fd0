"""The HTTP interface over a tiny model: real sockets, real clients, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tiny_models import tiny_folder

from weftline.runtime.server.engine.requests import Sampling
from weftline.runtime.server.engine.worker import Worker
from weftline.runtime.server.http.app import Server, app_of
from weftline.runtime.server.http.reading import Limits
from weftline.runtime.server.http.tokens import Tokens
from weftline.runtime.server.options import EngineOptions, ServerOptions
from weftline.runtime.server.start import engine_of, listen


class Up:
    """A server on a port of its own."""

    def __init__(self, server: Server, port: int, running: uvicorn.Server) -> None:
        self.server, self.port, self.running = server, port, running
        self.engine = server.worker.engine

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str):
        import http.client

        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request(method, path, body=body, headers=headers)
        answer = link.getresponse()
        data = answer.read()
        link.close()
        return answer.status, data, dict(answer.getheaders())

    def post(self, path: str, **asked):
        status, data, _ = self.send("POST", path, json.dumps(asked).encode())
        return status, json.loads(data)

    def settled(self) -> bool:
        """Whether nothing runs and no page is held, soon."""
        for _ in range(300):
            if self.server.worker.idle:
                self.engine.pages.check()
                return self.engine.pages.held == 0
            time.sleep(0.02)
        return False


@contextmanager
def up(folder, **said) -> Iterator[Up]:
    limits = said.pop("limits", Limits())
    key = said.pop("api_key", None)
    ready = engine_of(folder, EngineOptions(dtype="fp32", page=16, kv_memory="4MB", threads=1,
                                            **said))  # fmt: skip
    server = Server(
        worker=Worker(ready.engine).start(), name="tiny", ends=ready.ends, limits=limits,
        tokens=Tokens(ready.tokenizer, ready.vocabulary, ready.engine.max_len), api_key=key,
    )  # fmt: skip
    listening = listen(ServerOptions(port=0))
    running = uvicorn.Server(uvicorn.Config(app_of(server), log_level="error",
                                            timeout_graceful_shutdown=5))  # fmt: skip
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield Up(server, listening.getsockname()[1], running)
    finally:
        running.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def served(folder) -> Iterator[Up]:
    with up(folder) as there:
        yield there


FINE = {"prompt": "w5 w6 w7", "max_tokens": 6, "temperature": 0}
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"


def test_openai_client_streaming_and_not(served: Up) -> None:
    import openai

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none")
    assert [m.id for m in client.models.list()] == ["tiny"]
    whole = client.completions.create(model="tiny", logprobs=2, **FINE)
    stream = client.completions.create(model="tiny", stream=True, **FINE,
                                       stream_options={"include_usage": True})  # fmt: skip
    pieces = list(stream)
    text = "".join(p.choices[0].text for p in pieces if p.choices)
    assert text == whole.choices[0].text
    assert pieces[-1].usage == whole.usage
    assert len(whole.choices[0].logprobs.tokens) == 6
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "w9 w8"}], "seed": 3,
             "max_completion_tokens": 5, "n": 2}  # fmt: skip
    chat = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    pieces = list(client.chat.completions.create(**asked, stream=True))
    for choice in chat.choices:
        mine = [p.choices[0] for p in pieces if p.choices and p.choices[0].index == choice.index]
        assert "".join(p.delta.content or "" for p in mine) == choice.message.content
        assert mine[-1].finish_reason == choice.finish_reason
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    assert chat.choices[0].message.content != chat.choices[1].message.content
    assert served.settled()


REAL = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data" / "harness" / "requests.jsonl")
    .read_text()
    .splitlines()
]


@pytest.mark.parametrize("asked", REAL, ids=lambda a: f"{a['client'].split()[0]} {a['path']}")
def test_requests_as_other_clients_sent_them(served: Up, asked: dict) -> None:
    """Recorded from aiperf, vLLM's bench, guidellm, lm-eval; openai's types check the answers."""
    body = asked["body"]
    if body:
        body = {**body, "model": "tiny"}
        if isinstance(body.get("prompt"), list):  # lm-eval's: tokens of another vocabulary
            body["prompt"] = [[4 + t % 120 for t in one] for one in body["prompt"]]
    status, raw, headers = served.send(
        asked["method"], asked["path"], None if body is None else json.dumps(body).encode(),
        **asked["headers"],
    )  # fmt: skip
    assert status == 200, raw
    if not asked["path"].startswith("/v1/") or body is None:
        return
    chat = asked["path"] == CHAT
    most = body.get("max_tokens") or body["max_completion_tokens"]
    if not body.get("stream"):
        _check_whole(ChatCompletion if chat else Completion, json.loads(raw), body, most)
        return
    assert headers["content-type"].startswith("text/event-stream")
    *pieces, done, rest = raw.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    told = [json.loads(p.removeprefix("data: ")) for p in pieces]
    chunks = [ChatCompletionChunk.model_validate(c) if chat else Completion.construct(**c)
              for c in told]  # fmt: skip
    counts = [c.usage.completion_tokens for c in chunks if c.usage]
    assert len(counts) == (len(chunks) if "continuous_usage_stats" in body["stream_options"] else 1)
    assert counts == sorted(counts)
    assert 1 <= counts[-1] <= most
    assert chunks[-2].choices[0].finish_reason in ("length", "stop")
    if body.get("ignore_eos"):
        assert counts[-1] == most


def _check_whole(kind: type, data: dict, body: dict, most: int) -> None:
    # the type has no place for a prompt's first token, which is rated by nobody
    told = kind.construct(**data) if body.get("echo") else kind.model_validate(data)
    many = len(body["prompt"]) if "prompt" in body else 1
    assert [c.index for c in told.choices] == list(range(many))
    assert told.usage.completion_tokens <= most * many
    if body.get("echo"):  # lm-eval sums all but the first and the last
        for prompt, choice in zip(body["prompt"], told.choices, strict=True):
            rated = choice.logprobs.token_logprobs
            assert len(rated) == len(prompt) + 1
            assert all(value <= max(top.values()) for value, top in
                       zip(rated[1:], choice.logprobs.top_logprobs[1:], strict=True))  # fmt: skip


def test_tokens_are_told(served: Up) -> None:
    """What vLLM's bench and lm-eval's remote tokenizer build on."""
    status, found = served.post("/tokenize", prompt="w5 w6 </s>", return_token_strs=True)
    assert (status, found["tokens"], found["count"]) == (200, [9, 10, 2], 3)
    assert found["token_strs"] == ["w5", "w6", "</s>"]
    assert found["max_model_len"] == served.engine.max_len
    assert served.post("/detokenize", tokens=[9, 10, 2])[1] == {"prompt": "w5 w6 </s>"}
    said = [{"role": "user", "content": "w5"}]
    assert served.post("/tokenize", messages=said)[1]["tokens"] == [3, 9, 5]
    info = json.loads(served.send("GET", "/tokenizer_info")[1])
    assert (info["eos_token"], info["bos_token"]) == ("</s>", "<s>")
    for path, asked, word in (("/tokenize", {}, "one of them"),
                              ("/tokenize", {"prompt": "w5", "messages": said}, "one of them"),
                              ("/detokenize", {"tokens": [128]}, "token 128"),
                              ("/detokenize", {"tokens": "w5"}, "tokens")):  # fmt: skip
        status, told = served.post(path, **asked)
        assert (status, word in told["error"]["message"]) == (400, True), told


def test_answers_on_a_kept_connection_do_not_wait_for_acknowledgements(served: Up) -> None:
    """40 ms each, where a listening socket does not name TCP: lm-eval's tokenizer showed it."""
    import http.client

    link = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    spans = []
    for _ in range(6):
        begun = time.perf_counter()
        link.request("POST", "/tokenize", body=b'{"prompt": "w5"}')
        link.getresponse().read()
        spans.append(time.perf_counter() - begun)
    link.close()
    assert min(spans[1:]) < 0.03


def test_echo_rates_the_prompt_as_lm_eval_asks(served: Up) -> None:
    status, got = served.post(PLAIN, prompt=[5, 6, 7, 8], max_tokens=0, echo=True, logprobs=1)
    told = got["choices"][0]["logprobs"]
    assert status == 200
    assert told["tokens"] == ["w1", "w2", "w3", "w4"]
    assert told["token_logprobs"][0] is None
    assert len(told["token_logprobs"]) == 4
    assert all(value < 0 for value in told["token_logprobs"][1:])


def test_stop_strings_end_before_them_even_across_pieces(served: Up) -> None:
    _, plain = served.post(PLAIN, prompt="w5 w6", max_tokens=12, temperature=0, ignore_eos=True)
    words = plain["choices"][0]["text"].split()
    stop = f"{words[3]} {words[4]}"
    _, cut = served.post(PLAIN, prompt="w5 w6", max_tokens=12, temperature=0, ignore_eos=True,
                         stop=[stop, "never"])  # fmt: skip
    assert cut["choices"][0]["text"] == plain["choices"][0]["text"].partition(stop)[0]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert served.settled()


def test_curl(served: Up) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    told = subprocess.run(
        ["curl", "-sN", f"http://127.0.0.1:{served.port}{CHAT}", "-d",
         json.dumps({"messages": [{"role": "user", "content": "w3"}], "stream": True,
                     "max_tokens": 3, "seed": 1})],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert told.endswith("data: [DONE]\n\n")
    assert all(line.startswith("data: ") for line in told.split("\n\n") if line)


def _with(**changed) -> bytes:
    return json.dumps({**FINE, **changed}).encode()


BAD: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b"{", 400, "not JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', 400, "not JSON"),
    "a list": (b"[]", 400, "not a JSON object"),
    "nested deep": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, ""),
    "no prompt": (b"{}", 400, "prompt"),
    "empty prompt": (_with(prompt=""), 400, "prompt"),
    "prompt of nothing": (_with(prompt=[]), 400, "prompt"),
    "prompt of null": (_with(prompt=[None]), 400, "prompt"),
    "token too high": (_with(prompt=[5, 128]), 400, "token 128"),
    "token below 0": (_with(prompt=[-1]), 400, "prompt"),
    "token far too high": (_with(prompt=[2**70]), 400, "prompt"),
    "prompt too long": (_with(prompt=[5] * 600), 400, "600 tokens"),
    "another model": (_with(model="gpt-4"), 404, "`tiny` is"),
    "max_tokens below 0": (_with(max_tokens=-1), 400, "max_tokens"),
    "max_tokens text": (_with(max_tokens="6"), 400, "max_tokens"),
    "max_tokens beyond": (_with(max_tokens=4096), 400, "room for 509"),
    "temperature below 0": (_with(temperature=-0.1), 400, "temperature"),
    "temperature NaN": (b'{"prompt": "w5", "temperature": NaN}', 400, "temperature"),
    "top_p above 1": (_with(top_p=1.5), 400, "top_p"),
    "n of 0": (_with(n=0), 400, "n:"),
    "n of 1e6": (_with(n=1_000_000), 400, "n:"),
    "logprobs of 100": (_with(logprobs=100), 400, "logprobs"),
    "empty stop": (_with(stop=[""]), 400, "stop"),
    "seventeen stops": (_with(stop=["a"] * 17), 400, "stop"),
    "bias of a word": (_with(logit_bias={"word": 1}), 400, "no token"),
    "bias too large": (_with(logit_bias={"5": 1000}), 400, "-100"),
    "not done here": (_with(tools=[{}], suffix="x"), 400, "suffix, tools"),
    "two mistakes": (_with(top_p=2, n=0), 400, "top_p"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_told(served: Up, name: str) -> None:
    body, status, word = BAD[name]
    got, data, _ = served.send("POST", PLAIN, body)
    told = json.loads(data)["error"]
    assert (got, told["code"]) == (status, status), told
    assert word in told["message"]
    assert len(told["message"]) < 2100
    assert served.engine.idle


def test_bad_requests_are_listed() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serve-own.md").read_text(encoding="utf-8")
    assert [name for name, (_, status, _) in BAD.items()
            if f"| {name} | {status} |" not in page] == []  # fmt: skip


def test_bad_chats_and_doors(served: Up) -> None:
    for asked in ({}, {"messages": []}, {"messages": [{"role": "nobody", "content": "x"}]},
                  {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                  {"messages": [{"role": "user", "content": "w5"}],
                   "top_logprobs": 3}):  # fmt: skip
        status, told = served.post(CHAT, **asked)
        assert status == 400, asked
        assert told["error"]["message"]
    assert served.send("GET", PLAIN)[0] == 405
    assert json.loads(served.send("GET", "/v1/models/tiny")[1])["id"] == "tiny"
    assert served.send("GET", "/v1/models/other")[0] == 404
    assert served.send("POST", "/v1/embeddings", b"{}")[0] == 404
    assert served.send("GET", "/health")[0] == 200
    metrics = served.send("GET", "/metrics")[1].decode()
    assert 'weftline_request_refused_total{status="400"}' in metrics


def test_keys_sizes_and_slowness(folder) -> None:
    limits = Limits(body_bytes=2000, body_s=0.3)
    with up(folder, api_key="s3cret", limits=limits) as there:
        body = json.dumps(FINE).encode()
        assert there.send("POST", PLAIN, body)[0] == 401
        assert there.send("POST", PLAIN, body, authorization="Bearer s3cre")[0] == 401
        assert there.send("POST", PLAIN, body, authorization="Bearer s3cret")[0] == 200
        assert there.send("GET", "/health")[0] == 200
        assert there.send("POST", PLAIN, b"x" * 3000, authorization="Bearer s3cret")[0] == 413
        with socket.create_connection(("127.0.0.1", there.port)) as link:
            link.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer s3cret"
                         b"\r\ncontent-length: 100\r\n\r\n{")  # fmt: skip
            assert b" 408 " in link.recv(200)


def test_nobody_waits_for_a_step_to_end(folder) -> None:
    """Who waits holds up the event loop, and comes late where steps follow each other at once."""
    with up(folder) as there:
        inside, over = threading.Event(), threading.Event()
        planned = there.engine.scheduler.next_step

        def long_step():
            inside.set()
            over.wait(60)
            return planned()

        there.engine.scheduler.next_step = long_step  # type: ignore[method-assign]
        told: list[str] = []

        def ask() -> None:
            worker, heard = there.server.worker, []
            sampling = Sampling(max_tokens=2, ignore_eos=True)
            first = worker.submit([5], sampling, lambda *said: heard.append(said))
            inside.wait(60)
            second = worker.submit([6], sampling, lambda *said: heard.append(said))
            worker.cancel(first)
            told.append(there.server.metrics.text(there.engine))
            over.set()
            while not worker.idle:
                time.sleep(0.01)
            assert [request for request, token in heard if token.finish] == [second]
            told.append("ended")

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(20)
        over.set()
        assert told[1:] == ["ended"]
        assert there.settled()


def test_too_many_are_told_to_come_back(folder) -> None:
    with up(folder, max_waiting=2, max_sequences=1) as there:
        long = {"prompt": [5, 6], "max_tokens": 400, "ignore_eos": True, "n": 8}
        status, told = there.post(PLAIN, **long)
        assert (status, told["error"]["type"]) == (429, "server_busy")
        assert there.settled()
        code, _, headers = there.send("POST", PLAIN, json.dumps(long).encode())
        assert (code, headers["retry-after"]) == (429, "1")


async def _client(port: int, i: int, want: dict[int, str]) -> str:
    """One of many: takes all, leaves early, reads slowly, or sends rubbish."""
    draw = random.Random(i)
    kind = draw.choice(["whole", "stream", "stream", "leave", "slow", "rubbish"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    prompt = [5 + i % 7, 9, 11]
    asked = {"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True,
             "stream": kind != "whole"}  # fmt: skip
    body = json.dumps(asked).encode()
    if kind == "rubbish":
        body = draw.randbytes(draw.randrange(1, 400))
    head = f"POST {PLAIN} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}"
    try:
        writer.write(head.encode() + b"\r\n\r\n" + body)
        await writer.drain()
        if kind == "leave":
            await reader.read(draw.randrange(1, 900))
            writer.transport.abort()
            return kind
        data = b""
        while piece := await reader.read(200 if kind == "slow" else 1 << 16):
            data += piece
            if kind == "slow":
                await asyncio.sleep(0.01)
    finally:
        writer.close()
    status = int(data.split(b" ", 2)[1])
    if kind == "rubbish":
        assert status == 400
        return kind
    assert status in (200, 429), data[:300]
    if status == 200:
        lines = [line for line in data.split(b"\n") if line.strip().startswith((b"data: {", b"{"))]
        texts = [json.loads(line.strip().removeprefix(b"data: "))["choices"][0]["text"]
                 for line in lines]  # fmt: skip
        assert "".join(texts) == want[prompt[0]], kind
    return f"{kind} {status}"


def _crowd(there: Up, clients: int) -> dict[str, int]:
    want = {}
    for first in range(5, 12):
        _, told = there.post(PLAIN, prompt=[first, 9, 11], max_tokens=24, temperature=0,
                             ignore_eos=True)  # fmt: skip
        want[first] = told["choices"][0]["text"]

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(_client(there.port, i, want) for i in range(clients)))

    ends = asyncio.run(all_of_them())
    assert there.settled(), "pages leak"
    return {end: ends.count(end) for end in sorted(set(ends))}


def test_a_crowd_that_misbehaves_leaks_nothing(folder) -> None:
    with up(folder, max_waiting=30, max_sequences=8) as there:
        counted = _crowd(there, 60)
    assert counted["stream 200"] > 3
    assert counted["leave"] > 3


@pytest.mark.slow
def test_500_clients(folder) -> None:
    with up(folder, max_waiting=200, max_sequences=32) as there:
        for _ in range(3):
            counted = _crowd(there, 500)
            assert counted["whole 200"] > 10
            assert counted["leave"] > 30


def test_stopping_lets_answers_end(folder) -> None:
    with up(folder) as there:
        found: list[tuple[int, dict]] = []
        thread = threading.Thread(target=lambda: found.append(there.post(
            PLAIN, prompt=[5], max_tokens=60, temperature=0, ignore_eos=True)))  # fmt: skip
        thread.start()
        while there.engine.steps < 5:
            time.sleep(0.005)
        there.running.should_exit = True
        thread.join(30)
    assert found[0][0] == 200
    assert found[0][1]["usage"]["completion_tokens"] == 60
