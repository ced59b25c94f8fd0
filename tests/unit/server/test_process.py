"""The server as a process that is killed and told to stop while clients wait for answers."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import openai
import pytest
from served_process import Served, served, start
from tiny_models import tiny_folder

pytestmark = pytest.mark.slow
ASKED = {"model": "tiny", "max_tokens": 40, "temperature": 0, "extra_body": {"ignore_eos": True}}
SHARED = Path("/dev/shm")  # noqa: S108  (looked at, never written)
OPTIONS = ("--name", "tiny", "--page", "16", "--kv-memory", "8MB", "--max-sequences", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny"))


def _gauge(there: Served, name: str) -> float:
    text = httpx2.get(f"{there.url}/metrics", timeout=10).text
    return float(next(x for x in text.splitlines() if x.startswith(f"weftline_{name} ")).split()[1])


def _until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


class Crowd:
    """Clients that ask until told to stop, with openai's own retries, and count what they got."""

    def __init__(self, port: int, want: dict[int, str], clients: int = 12) -> None:
        self.answers = self.streams = self.broken = 0
        self.wrong: list[str] = []
        self._want, self._port, self._over = want, port, threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, i: int) -> None:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{self._port}/v1", api_key="none",
                               max_retries=8, timeout=20)  # fmt: skip
        while not self._over.is_set():
            try:
                prompt = [5 + i % 7, 9, 11]
                if i % 2:
                    text = client.completions.create(prompt=prompt, **ASKED).choices[0].text
                else:  # nothing can retry the rest of a stream
                    stream = client.completions.create(prompt=prompt, stream=True, **ASKED)
                    text = "".join(p.choices[0].text for p in stream)
            except openai.APIStatusError as error:  # an answer, and none that a client would want
                with self._lock:
                    self.wrong.append(str(error))
                return
            except (openai.APIError, httpx2.TransportError):  # httpx2 tells a cut stream as it is
                with self._lock:
                    self.broken += 1
                time.sleep(0.05)
                continue
            with self._lock:
                self.answers += 1
                self.streams += 1 - i % 2
                if text != self._want[prompt[0]]:
                    self.wrong.append(text)


def _alone(there: Served) -> dict[int, str]:
    client = openai.OpenAI(base_url=f"{there.url}/v1", api_key="none")
    return {first: client.completions.create(prompt=[first, 9, 11], **ASKED).choices[0].text
            for first in range(5, 12)}  # fmt: skip


def test_killed_under_load_and_started_again(folder: Path) -> None:
    """kill -9 three times, the same port at once again: clients that retry get right answers."""
    before = set(SHARED.iterdir())
    with served(folder, *OPTIONS) as there:
        port, want = there.port, _alone(there)
        crowd = Crowd(port, want)
        _until(lambda: crowd.answers > 20)
        there.end(signal.SIGKILL)
    try:
        for _ in range(2):
            with served(folder, *OPTIONS, port=port) as there:
                had = crowd.answers
                _until(lambda had=had: crowd.answers > had + 20)
                assert _gauge(there, "num_requests_running") > 0
                there.end(signal.SIGKILL)
        with served(folder, *OPTIONS, port=port) as there:
            had = crowd.answers
            _until(lambda: crowd.answers > had + 20)
            crowd.stop()
            _until(lambda: _gauge(there, "kv_pages_held") == 0)
            assert _gauge(there, "num_requests_waiting") == 0
            assert there.end(signal.SIGTERM)[0] == 0
    finally:
        crowd.stop()
    assert crowd.wrong == []
    assert crowd.streams > 10
    assert set(SHARED.iterdir()) <= before


def test_told_to_stop_under_load(folder: Path) -> None:
    """SIGTERM: answers that run end whole, no new connection is taken, the exit status is 0."""
    with served(folder, *OPTIONS, "--grace", "20s") as there:
        client = openai.OpenAI(base_url=f"{there.url}/v1", api_key="none", max_retries=0)
        asked = {**ASKED, "max_tokens": 400}
        found: list[tuple[str | None, int]] = []

        def ask(first: int) -> None:
            pieces = list(
                client.completions.create(
                    prompt=[first, 9], stream=True, stream_options={"include_usage": True}, **asked
                )
            )
            found.append((pieces[-2].choices[0].finish_reason, pieces[-1].usage.completion_tokens))

        threads = [threading.Thread(target=ask, args=(5 + i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        _until(lambda: _gauge(there, "num_requests_running") == 6)
        there.process.send_signal(signal.SIGTERM)
        _until(lambda: not _listens(there.port))
        status, said = there.end(signal.SIGCONT)
        for thread in threads:
            thread.join(60)
    assert (status, found) == (0, [("length", 400)] * 6), said


def test_grace_ends(folder: Path) -> None:
    """An answer that outlasts the grace is cut; the server ends all the same, and says so."""
    with served(folder, *OPTIONS, "--grace", "1s", "--max-len", "500") as there:
        client = openai.OpenAI(base_url=f"{there.url}/v1", api_key="none", max_retries=0)
        asked = {**ASKED, "max_tokens": 490, "n": 16}
        streams = [client.completions.create(prompt=[5, 9], stream=True, **asked)
                   for _ in range(4)]  # fmt: skip
        next(iter(streams[0]))
        begun = time.monotonic()
        status, _ = there.end(signal.SIGTERM)
        assert (status, time.monotonic() - begun < 15) == (0, True)


def _listens(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_that_is_taken_is_told_at_once(folder: Path) -> None:
    with (socket.create_server(("127.0.0.1", 0)) as taken,
          pytest.raises(AssertionError, match="cannot listen on 127")):  # fmt: skip
        start(folder, port=taken.getsockname()[1])
