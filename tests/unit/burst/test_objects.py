"""Objects arrive whole or not at all, and an error says what happened and holds no secret."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from hypothesis import given
from hypothesis import strategies as st
from weed_server import KEY

from weftline.burst.remote.objects import (
    Bucket,
    BucketOptions,
    CredentialsError,
    ObjectMissingError,
    RemoteError,
    Throttle,
    _Sums,
)
from weftline.errors import InputError

MIB = 1 << 20
PART = 5 * MIB
"""The least an S3 server takes."""
QUICK = BucketOptions(
    part_bytes=PART, retries=3, backoff_s=0.01, request_timeout_s=20, parts_in_flight=2, seed=0
)


def content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, PART, 2 * PART + 17])
def test_what_is_put_is_read_in_any_range(tmp_path: Path, size: int) -> None:
    data = content(size)
    for url in (f"memory://ranges{size}", f"file://{tmp_path}/deep/er"):
        bucket = Bucket.open(url, QUICK)
        said = bucket.put("a/b", lambda: iter([data[:3], data[3:]]))
        assert (said.size_bytes, said.checked) == (size, "read")
        assert bucket.size("a/b") == size
        assert bucket.read("a/b") == data
        assert bucket.read("a/b", size // 2, size - size // 2) == data[size // 2 :]
        assert [i.name for i in bucket.list("a")] == ["a/b"]
        bucket.delete("a/b")
        bucket.delete("a/b")
        assert bucket.size("a/b") is None
        with pytest.raises(ObjectMissingError, match="no such object"):
            bucket.read("a/b")


@given(chunks=st.lists(st.binary(max_size=40), max_size=8), part=st.integers(1, 16))
def test_the_server_digests_do_not_depend_on_how_the_content_was_cut(
    chunks: list[bytes], part: int
) -> None:
    cut, whole = _Sums(part, md5=True), _Sums(part, md5=True)
    for chunk in chunks:
        cut.add(chunk)
    whole.add(b"".join(chunks))
    assert cut.etags() == whole.etags()
    assert cut.whole.digest() == whole.whole.digest()


def test_an_error_of_the_content_is_passed_on_and_leaves_nothing() -> None:
    bucket = Bucket.open("memory://content-error", QUICK)

    def breaks() -> Iterator[bytes]:
        yield content(2 * PART)
        raise KeyError("record 7")

    with pytest.raises(KeyError, match="record 7"):
        bucket.put("x", breaks)
    assert bucket.list() == []


def test_urls_that_are_no_object_store_are_refused_without_their_secrets() -> None:
    for url in ("ftp://x", "s3://", "/just/a/path", "file://host/x"):
        with pytest.raises(InputError):
            Bucket.open(url)
    for url in ("s3://AKIA:hunter22@bucket/x", "s3://bucket?secret=hunter22"):
        with pytest.raises(InputError) as caught:
            Bucket.open(url)
        assert "hunter22" not in caught.value.render()


def test_a_bandwidth_limit_holds_over_threads_and_parts() -> None:
    bucket = Bucket.open(
        "memory://slow", BucketOptions(part_bytes=64 << 10, bandwidth_bytes_per_s=2e6)
    )
    start = time.monotonic()
    bucket.put("x", lambda: [content(1 << 20)])
    elapsed = time.monotonic() - start
    assert elapsed >= (1 << 20) / 2e6 * 0.85  # the first part goes at once
    with pytest.raises(InputError):
        Throttle(0)


# --- against a real S3 server, with a proxy that fails ------------------------------------------


def test_an_upload_in_parts_is_verified_by_the_servers_own_digest(
    s3_port: int, s3: pytest.MonkeyPatch
) -> None:
    s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    bucket = Bucket.open("s3://weftline/plain", QUICK)
    data = content(2 * PART + 99)
    assert bucket.put("x", lambda: [data]).checked == "etag"
    assert bucket.put("y", b"small").checked == "etag"
    assert bucket.read("x", PART - 5, 10) == data[PART - 5 : PART + 5]
    assert [i.size_bytes for i in bucket.list()] == [len(data), 5]


FAULTS = (
    ("503", "PUT", 2), ("reset", "PUT", 2), ("lost", "PUT", 1), ("slow", "PUT", 1),
    ("503", "POST", 1), ("lost", "POST", 1), ("reset", "POST", 2), ("503", "HEAD", 2),
    ("truncate", "POST", 1),
)  # fmt: skip


@pytest.mark.parametrize(("fault", "method", "times"), FAULTS)
def test_an_upload_survives(
    s3_port: int, s3: pytest.MonkeyPatch, fault: str, method: str, times: int
) -> None:
    """POST completes an upload in parts: ``lost`` is the lost CompleteMultipartUpload answer."""
    left = [times]

    def rule(seen_method: str, path: str, _: int) -> str | None:
        completing = method != "POST" or "uploadId" in path
        if seen_method == method and completing and left[0]:
            left[0] -= 1
            return fault
        return None

    data = content(2 * PART + 1)
    with FaultProxy(s3_port, rule) as proxy:
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        bucket = Bucket.open(f"s3://weftline/{fault}-{method}", QUICK)
        assert bucket.put("x", lambda: [data]).size_bytes == len(data)
        assert left == [0]
        assert any(f == fault for _, _, f in proxy.seen)
        assert bucket.read("x") == data


@pytest.mark.parametrize("fault", ["503", "reset", "truncate", "lost"])
def test_a_read_survives(s3_port: int, s3: pytest.MonkeyPatch, fault: str) -> None:
    data = content(PART)
    left = [2]

    def rule(method: str, _path: str, _: int) -> str | None:
        if method == "GET" and left[0]:
            left[0] -= 1
            return fault
        return None

    with FaultProxy(s3_port, rule) as proxy:
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        bucket = Bucket.open(f"s3://weftline/read-{fault}", QUICK)
        bucket.put("x", data)
        assert bucket.read("x", 1, PART - 1) == data[1:]
        assert left == [0]


def test_a_server_that_never_answers_is_given_up_and_asked_again(
    s3_port: int, s3: pytest.MonkeyPatch
) -> None:
    left = [1]

    def rule(method: str, *_: object) -> str | None:
        left[0] -= 1
        return "hang" if left[0] >= 0 else None

    with FaultProxy(s3_port, rule) as proxy:
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        options = BucketOptions(part_bytes=PART, retries=2, backoff_s=0.01, request_timeout_s=0.5)
        start = time.monotonic()
        Bucket.open("s3://weftline/hang", options).put("x", b"data")
        assert 0.5 <= time.monotonic() - start < 20
        assert proxy.seen[0][2] == "hang"


def test_a_server_that_stays_down_is_an_error_and_nothing_counts(
    s3_port: int, s3: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3_port, lambda *_: "503") as proxy:
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        bucket = Bucket.open("s3://weftline/down", QUICK)
        with pytest.raises(RemoteError, match="after 4 tries") as caught:
            bucket.put("x", b"data")
        assert "503" in str(caught.value)
        assert bucket.counters.puts == 0
        assert bucket.counters.retries == 3


def test_what_the_server_changed_is_never_taken_for_whole(
    s3_port: int, s3: pytest.MonkeyPatch
) -> None:
    """The read-back differs every time: the upload must not be believed."""
    with FaultProxy(s3_port, lambda m, *_: "flip" if m == "GET" else None) as proxy:
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        options = BucketOptions(part_bytes=PART, retries=1, backoff_s=0.01, verify="read")
        with pytest.raises(RemoteError, match="differ from those that were sent"):
            Bucket.open("s3://weftline/flipped", options).put("x", b"data")


def test_wrong_credentials_are_named_at_once_and_never_shown(
    s3_port: int, s3: pytest.MonkeyPatch
) -> None:
    s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    s3.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-123")
    bucket = Bucket.open("s3://weftline/refused", QUICK)
    for act in (lambda: bucket.put("x", b"1"), lambda: bucket.read("x"), bucket.list):
        with pytest.raises(CredentialsError) as caught:
            act()
        shown = caught.value.render()
        assert "SignatureDoesNotMatch" in shown or "403" in shown
        assert "hint: check the credentials" in shown
        assert KEY not in shown
        assert "not-the-secret-123" not in shown
    assert bucket.counters.retries == 0
