"""Whole, verified objects in an object store: S3 and what speaks it, GCS, Azure, a folder, memory.

A :class:`Bucket` is a prefix of one store. ``put`` uploads in parts, looks at what arrived (length
and the server's own MD5 of it; read back whole where the server gives none) and only then says so;
it retries with growing, jittered pauses what may pass (503, reset, time-out, truncated answer, a
lost answer to the completing request) and stops at once at what will not (wrong credentials, no
such bucket). ``read`` retries likewise. Credentials come from the environment or the platform as
obstore reads them (AWS_*, GOOGLE_*, AZURE_*), and are never logged or shown in an error.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import xxhash

from weftline.burst.errors import BurstError
from weftline.errors import InputError

__all__ = [
    "Bucket",
    "BucketOptions",
    "Buffer",
    "ObjectInfo",
    "ObjectMissingError",
    "RemoteError",
    "Throttle",
]

Buffer = bytes | bytearray | memoryview
Verify = Literal["etag", "read", "length"]
T = TypeVar("T")

_SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file", "memory")
_MEMORY: dict[str, Any] = {}
"""Stores of ``memory://name``: one a name and process."""
_SECRET_NAME: Final = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS", re.IGNORECASE)
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})|status: (\d{3})")
_REFUSED: Final = re.compile(
    r"status code: 40[13]\b|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|NoCredentials"
)
_ABSENT_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNotFound")
READ_BACK_BYTES: Final = 64 << 20
"""Range of one request when an object is read back; servers do large ranges best."""


class RemoteError(BurstError):
    """An object store could not be used or did not hold what it said."""


class CredentialsError(RemoteError, InputError):
    """The object store refused the credentials, or there were none."""


class ObjectMissingError(RemoteError):
    """There is no such object, or no such bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketOptions:
    """How to talk to an object store."""

    bandwidth_bytes_per_s: float | None = None
    """Upper limit of uploads, over all threads of this bucket."""
    part_bytes: int = 16 << 20
    """Size of the parts of an upload."""
    parts_in_flight: int = 4
    retries: int = 6
    """Tries after the first, for what may pass."""
    backoff_s: float = 0.2
    """First pause; each next one is up to twice as long, and random below that."""
    backoff_most_s: float = 20.0
    request_timeout_s: float = 300.0
    """A single request, a part's upload say, that takes longer counts as failed."""
    connect_timeout_s: float = 5.0
    verify: Verify = "etag"
    """``etag``: the server's MD5 of what it stored, or a read-back where it gives none; ``read``:
    always read back; ``length``: the length alone."""
    seed: int | None = None
    """Of the jitter."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store has it."""

    name: str
    size_bytes: int
    checked: str = ""
    """How ``put`` verified it: ``etag``, ``read`` or ``length``."""


class Throttle:
    """A limit of bytes a second shared by threads; None for no limit."""

    def __init__(self, bytes_per_s: float | None) -> None:
        if bytes_per_s is not None and bytes_per_s <= 0:
            raise InputError("a bandwidth limit must be above zero", where="bandwidth")
        self.bytes_per_s = bytes_per_s
        self._free_at_s = 0.0
        self._lock = threading.Lock()

    def take(self, count_bytes: int) -> float:
        """Wait until ``count_bytes`` may pass; the seconds waited."""
        if self.bytes_per_s is None:
            return 0.0
        with self._lock:
            now_s = time.monotonic()
            start_s = max(now_s, self._free_at_s)
            self._free_at_s = start_s + count_bytes / self.bytes_per_s
            wait_s = start_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)
        return wait_s


@dataclass(slots=True)
class BucketCounters:
    """What a bucket has done since it was opened."""

    put_bytes: int = 0
    read_bytes: int = 0
    puts: int = 0
    retries: int = 0
    throttled_s: float = 0.0


@dataclass(slots=True)
class _Sums:
    """Length and digests of what went by: xxh3 of the whole, MD5 of every part."""

    part_bytes: int
    md5: bool
    length: int = 0
    whole: Any = field(default_factory=xxhash.xxh3_128)
    parts: list[bytes] = field(default_factory=list)
    done: bool = False
    _part: Any = None
    _in_part: int = 0

    def add(self, chunk: Buffer) -> None:
        self.whole.update(chunk)
        self.length += len(chunk)
        if not self.md5:
            return
        view = memoryview(chunk)
        while view:
            if self._part is None:
                self._part, self._in_part = hashlib.md5(usedforsecurity=False), 0
            take = view[: self.part_bytes - self._in_part]
            self._part.update(take)
            self._in_part += len(take)
            view = view[len(take) :]
            if self._in_part == self.part_bytes:
                self._close_part()

    def _close_part(self) -> None:
        if self._part is not None:
            self.parts.append(self._part.digest())
            self._part = None

    def etags(self) -> tuple[str, ...]:
        """What an S3 server says of these bytes, uploaded at once or in parts."""
        self._close_part()
        parts = self.parts or [hashlib.md5(b"", usedforsecurity=False).digest()]
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        whole = (parts[0].hex(),) if len(parts) == 1 else ()
        return (*whole, f"{joined}-{len(parts)}")


class Bucket:
    """A prefix of an object store. Safe to use from several threads."""

    def __init__(self, store: Any, url: str, options: BucketOptions) -> None:
        self.url = url
        """Where this is, without credentials."""
        self.options = options
        self.counters = BucketCounters()
        self.throttle = Throttle(options.bandwidth_bytes_per_s)
        self._store = store
        self._random = random.Random(options.seed)  # noqa: S311  (jitter, no secret)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, url: str, options: BucketOptions | None = None) -> Bucket:
        """A bucket from ``s3://bucket/prefix``, ``gs://``, ``az://``, ``file:///folder`` or
        ``memory://name``. Raises InputError for a URL that is none of these."""
        options = options or BucketOptions()
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise InputError(
                f"`{_public(url)}` is not an object store", where="--to",
                hint="write s3://bucket/prefix, gs://bucket, az://container or file:///folder",
            )  # fmt: skip
        if parts.username or parts.password or parts.query:
            raise InputError(
                f"`{_public(url)}`: credentials do not belong in a URL", where="--to",
                hint="set them in the environment (AWS_ACCESS_KEY_ID, ...)",
            )  # fmt: skip
        try:
            return cls(_store_of(url, parts.scheme, options), url.rstrip("/"), options)
        except (BurstError, InputError):
            raise
        except Exception as error:  # obstore refuses in many classes of its own
            raise InputError(
                f"cannot open this object store: {_reason(error)}", where=url,
                hint="check the URL and the AWS_*, GOOGLE_* or AZURE_* variables",
            ) from None  # fmt: skip

    def put(
        self,
        name: str,
        chunks: Buffer | Callable[[], Iterable[Buffer]],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        """Upload an object and verify it; returns only once the store holds it as it was sent.

        ``chunks`` is the content, or a function that yields it anew for every try. ``progress``
        hears of every chunk's bytes. Raises RemoteError, and what ``chunks`` itself raises.
        """
        import obstore

        def once() -> ObjectInfo:
            sums = _Sums(self.options.part_bytes, md5=self.options.verify == "etag")
            try:
                if callable(chunks):
                    said = obstore.put(
                        self._store, name, self._passing(chunks, sums, progress),
                        chunk_size=self.options.part_bytes,
                        max_concurrency=self.options.parts_in_flight,
                    )  # fmt: skip
                else:
                    sums.add(chunks)
                    sums.done = True
                    self.counters.throttled_s += self.throttle.take(len(chunks))
                    said = obstore.put(self._store, name, bytes(chunks), use_multipart=False)
            except Exception as error:
                # The object may be whole and only the answer lost.
                if sums.done and _may_pass(error) and (how := self._holds(name, sums, None)):
                    return self._counted(name, sums, how)
                raise
            how = self._holds(name, sums, said.get("e_tag"))
            if not how:
                raise _ArrivedWrongError
            return self._counted(name, sums, how)

        return self._retrying(once, name, "upload")

    def read(self, name: str, start_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """A range of an object, or all of it. Raises ObjectMissingError and RemoteError."""
        import obstore

        def once() -> bytes:
            if length_bytes is None:
                data = bytes(obstore.get(self._store, name).bytes())
            elif length_bytes == 0:
                data = b""
            else:
                data = bytes(
                    obstore.get_range(self._store, name, start=start_bytes, length=length_bytes)
                )
                if len(data) != length_bytes:
                    raise _ArrivedWrongError
            self.counters.read_bytes += len(data)
            return data

        return self._retrying(once, name, "read")

    def size(self, name: str) -> int | None:
        """Length of an object in bytes; None if there is none."""
        import obstore

        try:
            return int(self._retrying(lambda: obstore.head(self._store, name)["size"], name, "ask"))
        except ObjectMissingError:
            return None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """All objects under ``prefix`` (whole path parts), by name."""
        import obstore

        def once() -> list[ObjectInfo]:
            pages = obstore.list(self._store, prefix or None)
            return sorted(
                (ObjectInfo(m["path"], m["size"]) for page in pages for m in page),
                key=lambda info: info.name,
            )

        return self._retrying(once, prefix or "(all)", "list")

    def delete(self, name: str) -> None:
        """Remove an object; no error if there is none."""
        import obstore

        try:
            self._retrying(lambda: obstore.delete(self._store, name), name, "delete")
        except ObjectMissingError:
            return

    def _counted(self, name: str, sums: _Sums, how: str) -> ObjectInfo:
        self.counters.puts += 1
        self.counters.put_bytes += sums.length
        return ObjectInfo(name, sums.length, how)

    def _passing(
        self,
        chunks: Callable[[], Iterable[Buffer]],
        sums: _Sums,
        progress: Callable[[int], None] | None,
    ) -> Iterator[Buffer]:
        """The chunks, at the rate allowed, counted and summed on their way."""
        for chunk in chunks():
            view = memoryview(chunk).cast("B")
            for start in range(0, len(view), self.options.part_bytes):
                piece = view[start : start + self.options.part_bytes]
                self.counters.throttled_s += self.throttle.take(len(piece))
                sums.add(piece)
                yield piece
                if progress is not None:
                    progress(len(piece))
        sums.done = True

    def _holds(self, name: str, sums: _Sums, etag: str | None) -> str | None:
        """How it is known that the store holds exactly these bytes; None if it does not."""
        import obstore

        try:
            found = obstore.head(self._store, name)
        except FileNotFoundError:
            return None
        if found["size"] != sums.length:
            return None
        verify = self.options.verify
        if verify == "length":
            return "length"
        said = (found.get("e_tag") or etag or "").strip('"').lower()
        if verify == "etag" and said in sums.etags():
            return "etag"
        seen = xxhash.xxh3_128()
        for start in range(0, sums.length, READ_BACK_BYTES):
            length = min(READ_BACK_BYTES, sums.length - start)
            seen.update(obstore.get_range(self._store, name, start=start, length=length))
        return "read" if seen.digest() == sums.whole.digest() else None

    def _retrying(self, once: Callable[[], T], name: str, doing: str) -> T:
        """``once()``, again after a pause while what stopped it may pass."""
        place = f"{self.url}/{name}"
        for attempt in range(self.options.retries + 1):
            try:
                return once()
            except FileNotFoundError as error:
                if _ABSENT_BUCKET.search(str(error)):
                    raise ObjectMissingError(
                        "there is no such bucket", where=self.url, hint="create it first"
                    ) from None
                if doing != "upload":  # there, it is a completing request whose answer was lost
                    raise ObjectMissingError("there is no such object", where=place) from None
                last: Exception = error
            except Exception as error:
                if not _may_pass(error):
                    raise _final(error, self.url, doing) from None
                last = error
            if attempt < self.options.retries:
                with self._lock:
                    self.counters.retries += 1
                    pause_s = self._random.random()
                longest_s = min(self.options.backoff_most_s, self.options.backoff_s * 2**attempt)
                time.sleep(longest_s * (0.5 + pause_s / 2))
        tries = self.options.retries + 1
        what = "" if doing == "list" else " this object"
        raise RemoteError(
            f"cannot {doing}{what} after {tries} tries: {_reason(last)}", where=place,
            hint="nothing was counted as durable; run the command again when the store answers",
        )  # fmt: skip


class _ArrivedWrongError(Exception):
    """What the store holds, or sent, is not what it should be."""

    def __str__(self) -> str:
        return "the bytes that arrived differ from those that were sent"


def _store_of(url: str, scheme: str, options: BucketOptions) -> Any:
    from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

    parts = urlsplit(url)
    if scheme == "file":
        folder = PurePosixPath(unquote(parts.path))
        if not folder.is_absolute() or parts.netloc not in ("", "localhost"):
            raise InputError(f"`{url}` names no folder", where="--to", hint="write file:///folder")
        return LocalStore(str(folder), mkdir=True)
    if scheme == "memory":
        return _MEMORY.setdefault(f"{parts.netloc}{parts.path.rstrip('/')}", MemoryStore())
    if not parts.netloc:
        raise InputError(f"`{url}` names no bucket", where="--to", hint="write s3://bucket/prefix")
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=options.request_timeout_s),
        "connect_timeout": timedelta(seconds=options.connect_timeout_s),
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint.startswith("http://"):
        client["allow_http"] = True  # the user asked for it by writing http://
    # Single requests are tried a few times quickly; Bucket does the patient part.
    retry: dict[str, Any] = {
        "max_retries": 2,
        "retry_timeout": timedelta(seconds=options.request_timeout_s),
        "backoff": {
            "init_backoff": timedelta(seconds=options.backoff_s / 2),
            "max_backoff": timedelta(seconds=max(options.backoff_s, 1.0)),
            "base": 2,
        },
    }
    prefix = unquote(parts.path).strip("/") or None
    common: dict[str, Any] = {"prefix": prefix, "client_options": client, "retry_config": retry}
    if scheme in ("s3", "s3a"):
        given: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        return S3Store(parts.netloc, **given, **common)
    if scheme == "gs":
        return GCSStore(parts.netloc, **common)
    return AzureStore(parts.netloc.partition("@")[0], **common)


def _may_pass(error: Exception) -> bool:
    """Whether trying again can help: yes for the network and the server, no for a refusal."""
    from obstore.exceptions import (
        BaseError,
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
        UnknownConfigurationKeyError,
    )

    for_good = (
        PermissionDeniedError, UnauthenticatedError, NotSupportedError, InvalidPathError,
        UnknownConfigurationKeyError,
    )  # fmt: skip
    if isinstance(error, for_good):
        return False
    if isinstance(error, _ArrivedWrongError | FileNotFoundError):
        return True
    if not isinstance(error, BaseError):
        return False
    return not (_REFUSED.search(str(error)) or _ABSENT_BUCKET.search(str(error)))


def _final(error: Exception, url: str, doing: str) -> Exception:
    """An error that will not pass, as a user should see it."""
    text = str(error)
    kind = type(error).__name__
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or _REFUSED.search(text):
        return CredentialsError(
            f"the object store refused to {doing}: {_reason(error)}", where=url,
            hint="check the credentials in the environment and what they may do",
        )  # fmt: skip
    if _ABSENT_BUCKET.search(text):
        return ObjectMissingError("there is no such bucket", where=url, hint="create it first")
    if type(error).__module__.startswith("obstore"):
        return RemoteError(f"cannot {doing}: {_reason(error)}", where=url)
    return error  # what the content itself raised, a corrupt record say


def _reason(error: Exception) -> str:
    """One short line of an obstore error, with nothing in it that is a secret."""
    text = str(error)
    code, status = _CODE.search(text), _STATUS.search(text)
    parts = [code.group(1)] if code else []
    if status:
        parts.append(f"HTTP {status.group(1) or status.group(2)}")
    if not parts:
        first = text.partition("Debug source")[0].strip().splitlines()
        parts.append(" ".join(first)[:300] if first else type(error).__name__)
    said = ", ".join(parts)
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            said = said.replace(value, "***")
    return said


def _public(url: str) -> str:
    """A URL without what may be a secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path
