"""A peer keeps objects whole, knows whom it talks to, and takes nothing that was changed."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.burst.errors import BadNameError
from weftline.burst.files import file_system_of
from weftline.burst.remote.objects import CredentialsError, ObjectMissingError, RemoteError
from weftline.burst.remote.peer_server import PeerServer
from weftline.burst.remote.peers import PeerObjects
from weftline.burst.remote.wire import BODY_BYTES_MOST, Channel, WireError, secret_from_environment
from weftline.errors import InputError, WeftlineError

SECRET = b"a secret of enough bytes"


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[tuple[PeerServer, PeerObjects]]:
    with PeerServer(tmp_path / "replicas", secret=SECRET) as server:
        client = PeerObjects(server.host, server.port, SECRET)
        yield server, client
        client.close()


def test_objects_come_back_as_they_went(peer: tuple[PeerServer, PeerObjects]) -> None:
    server, client = peer
    data = bytes(range(256)) * (BODY_BYTES_MOST // 128) + b"end"  # more than two frames
    assert client.put("data/x/r0.pack", lambda: iter([data[:7], data[7:]])).size_bytes == len(data)
    client.put("commits/1", b"")
    assert client.read("data/x/r0.pack") == data
    assert client.read("data/x/r0.pack", len(data) - 5, 5) == data[-5:]
    assert client.read("commits/1") == b""
    assert [(i.name, i.size_bytes) for i in client.list()] == [
        ("commits/1", 0), ("data/x/r0.pack", len(data)),
    ]  # fmt: skip
    assert [i.name for i in client.list("data")] == ["data/x/r0.pack"]
    assert client.size("data/x/r0.pack") == len(data) == server.used_bytes
    client.put("data/x/r0.pack", b"new")
    assert server.used_bytes == 3
    client.delete("data/x/r0.pack")
    client.delete("data/x/r0.pack")
    assert client.size("data/x/r0.pack") is None
    with pytest.raises(ObjectMissingError):
        client.read("data/x/r0.pack")
    with pytest.raises(RemoteError, match="bytes 0 to 9"):
        client.read("commits/1", 0, 9)


def test_a_peer_listens_on_this_machine_unless_told(tmp_path: Path) -> None:
    with PeerServer(tmp_path, secret=SECRET) as server:
        assert server.host == "127.0.0.1"


def test_names_cannot_leave_the_folder(peer: tuple[PeerServer, PeerObjects]) -> None:
    server, client = peer
    for name in ("../x", "a/../../x", "/etc/x", "a//b", "x\x00y", "a.tmp"):
        with pytest.raises(WeftlineError):
            client.put(name, b"data")
        with pytest.raises(WeftlineError):
            client.read(name)
    assert [p.name for p in Path(server.folder).parent.iterdir()] == ["replicas"]
    with pytest.raises(BadNameError):
        server._path("../x")


def test_only_those_who_know_the_secret_get_in(peer: tuple[PeerServer, PeerObjects]) -> None:
    server, _ = peer
    stranger = PeerObjects(server.host, server.port, b"another secret, as long")
    with pytest.raises(CredentialsError, match="refused the shared secret") as caught:
        stranger.put("x", b"data")
    assert "another secret" not in caught.value.render()
    assert list(Path(server.folder).iterdir()) == []


def test_a_server_that_does_not_know_the_secret_is_found_out() -> None:
    """It lets any client in and answers with rubbish: the client must not send a byte of data."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall(b"WLPEER03" + bytes(32) + b"r" * 32)
        with pytest.raises(CredentialsError, match="does not know"):
            Channel(mine, SECRET, server=False)


def pair() -> tuple[Channel, Channel, socket.socket, socket.socket]:
    mine, theirs = socket.socketpair()
    mine.settimeout(5)
    theirs.settimeout(5)
    made: list[Channel] = []
    other = threading.Thread(target=lambda: made.append(Channel(theirs, SECRET, server=True)))
    other.start()
    client = Channel(mine, SECRET, server=False)
    other.join()
    return client, made[0], mine, theirs


@settings(max_examples=40)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_frame_is_refused(position: float, bit: int) -> None:
    """One bit anywhere: head, meta or MAC. (Bodies are held against what was saved.)"""
    client, server, mine, theirs = pair()
    with mine, theirs:
        between, far = socket.socketpair()
        with between, far:
            server._socket = far
            client._socket, real = between, client._socket
            client.send(3, {"name": "x"})
            client._socket = real
            frame = bytearray(far.recv(4096))
            frame[int(position * len(frame))] ^= 1 << bit
            between.sendall(frame)
            between.shutdown(socket.SHUT_WR)
            with pytest.raises(WireError):
                server.receive()


def test_a_changed_body_of_a_put_is_refused(
    peer: tuple[PeerServer, PeerObjects], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, client = peer
    whole = Channel.receive

    def spoilt(self: Channel) -> Any:
        kind, meta, body = whole(self)
        if len(body):
            body[0] ^= 1
        return kind, meta, body

    monkeypatch.setattr(Channel, "receive", spoilt)
    with pytest.raises(RemoteError, match="not what was sent"):
        client.put("x", b"data")
    assert list(Path(server.folder).iterdir()) == []


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (1,)])
def test_repeated_reordered_and_dropped_frames_are_refused(order: tuple[int, ...]) -> None:
    client, server, mine, theirs = pair()
    with mine, theirs:
        between, far = socket.socketpair()
        with between, far:
            client._socket = between
            frames = []
            for n in (0, 1):
                client.send(n, n)
                frames.append(far.recv(4096))
            server._socket = far
            for n in order:
                between.sendall(frames[n])
            for _ in order[1:]:
                if order[0] == 0:
                    server.receive()
            with pytest.raises(WireError, match="changed"):
                server.receive()


def test_a_put_that_breaks_off_leaves_nothing(peer: tuple[PeerServer, PeerObjects]) -> None:
    server, client = peer

    def breaks() -> Iterator[bytes]:
        yield b"x" * (BODY_BYTES_MOST + 1)
        raise KeyError("record 7")

    with pytest.raises(KeyError):
        client.put("a/b", breaks)
    client.put("a/c", b"fine")  # the server has seen the end of the first by the time it answers
    _eventually(lambda: [p.name for p in Path(server.folder, "a").iterdir()] == ["c"])
    assert client.size("a/b") is None
    _eventually(lambda: server.used_bytes == 4)


def test_a_full_peer_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    with PeerServer(tmp_path, secret=SECRET, capacity_bytes=1000) as server:
        client = PeerObjects(server.host, server.port, SECRET)
        client.put("a", bytes(600))
        with pytest.raises(RemoteError, match="full"):
            client.put("b", bytes(600))
        assert client.read("a") == bytes(600)
        assert [i.name for i in client.list()] == ["a"]
        assert server.used_bytes == 600
        client.close()


def test_what_was_cut_off_before_a_restart_is_swept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.3.tmp").write_bytes(b"half")
    (tmp_path / "data" / "y").write_bytes(b"whole")
    with PeerServer(tmp_path, secret=SECRET) as server:
        assert server.used_bytes == 5
        assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["y"]


def test_a_peer_that_is_gone_is_an_error_with_its_address(tmp_path: Path) -> None:
    with PeerServer(tmp_path, secret=SECRET) as server:
        client = PeerObjects(server.host, server.port, SECRET)
    with pytest.raises(RemoteError, match=f"peer://127.0.0.1:{server.port}/x"):
        client.put("x", b"data")
    tries = client.counters.retries
    with pytest.raises(RemoteError, match="a moment ago"):
        client.read("x")
    assert client.counters.retries == tries  # a restore does not wait for it again and again


def test_a_connection_that_broke_is_made_anew(peer: tuple[PeerServer, PeerObjects]) -> None:
    _, client = peer
    client.put("x", b"data")
    client._idle[0].close()
    assert client.read("x") == b"data"
    assert client.counters.retries == 1


def test_rubbish_on_the_port_ends_only_its_own_connection(
    peer: tuple[PeerServer, PeerObjects],
) -> None:
    server, client = peer
    with socket.create_connection((server.host, server.port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        with suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass
    client.put("x", b"data")


def test_a_secret_must_be_given_and_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "short"):
        monkeypatch.setenv("WEFTLINE_BURST_SECRET", value)
        with pytest.raises(InputError, match="at least 16 bytes"):
            secret_from_environment()
    for url in ("peer://", "tcp://x:1", "peer://user@host:1", "peer://host:1/path", "peer://h:x"):
        monkeypatch.setenv("WEFTLINE_BURST_SECRET", SECRET.decode())
        with pytest.raises(InputError, match="is no peer"):
            PeerObjects.open(url)
    assert PeerObjects.open("peer://node7").url == "peer://node7:7401"


def _eventually(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        threading.Event().wait(0.01)
    assert true()


def test_what_is_in_memory_is_sent_as_it_is_on_the_file_system() -> None:
    """From a mapping, which goes with its object; and not where the file is another one now."""
    memory = Path("/dev/shm")  # noqa: S108
    if file_system_of(memory) != "tmpfs":
        pytest.skip("no file system in memory here")
    first, second = (np.random.default_rng(n).bytes(3 << 20) for n in (0, 1))
    with (
        tempfile.TemporaryDirectory(dir=memory) as folder,
        PeerServer(folder, secret=SECRET) as server,
        closing(PeerObjects("127.0.0.1", server.port, SECRET)) as objects,
    ):
        for data in (first, second):
            objects.put("a/b", data)
            assert list(server._mapped) == ["a/b"]
            out = np.zeros(1 << 20, np.uint8)
            halves = out[: 1 << 19], out[1 << 19 :]
            parts = [("a/b", 77 + n * len(half), len(half)) for n, half in enumerate(halves)]
            assert objects.read_into(parts, halves) == [
                xxhash.xxh3_64_intdigest(half) for half in halves
            ]
            assert out.tobytes() == data[77 : 77 + (1 << 20)]
        (Path(folder) / "a/b").unlink()
        (Path(folder) / "a/b").write_bytes(first[: 2 << 20])
        assert objects.read("a/b") == first[: 2 << 20]
        objects.delete("a/b")
        assert not server._mapped
        with pytest.raises(ObjectMissingError):
            objects.read("a/b")


@pytest.mark.parametrize("said", [0, 40])
def test_a_peer_that_dies_in_the_handshake_is_down_and_its_secret_not_wrong(said: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def die() -> None:
            while True:
                with suppress(OSError):
                    connection, _ = listener.accept()
                    connection.sendall((b"WLPEER03" + bytes(32))[:said])
                    connection.recv(64) if said else None
                    connection.close()
                if listener.fileno() < 0:
                    return

        threading.Thread(target=die, daemon=True).start()
        objects = PeerObjects("127.0.0.1", listener.getsockname()[1], SECRET, tries=2)
        with pytest.raises(RemoteError) as told:
            objects.list()
        assert not isinstance(told.value, CredentialsError)
