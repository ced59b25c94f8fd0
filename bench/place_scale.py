"""place() at as many processes as a plan has: seconds and memory of the leader, the plan's size.

    python bench/place_scale.py 16384          # one leader, the others as sockets of two processes

Everything is on loopback: the leader is a process that runs weftline_place.py as jobs do, the other
ranks are sockets that say their hello as `place` does and wait for the answer. Prints the size of
plan.json, the seconds from the first hello to the last answer, the leader's peak memory and its
processor time, and whether every answer was the plan's rank.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from weftline.launch.place import slots_of
from weftline.plan import plan_train
from weftline.spec import Job
from weftline.spec.serialize import plan_to_json

HELPERS = 2
GIVES_UP_S = 600
LEADER = """
import resource, sys, time
from weftline.launch.place import place
began = time.monotonic()
done = place(sys.argv[1], host="n0", local=0, order=0, size=int(sys.argv[3]), job="j",
             rendezvous=sys.argv[2], publish=False, wait_s=300)
use = resource.getrusage(resource.RUSAGE_SELF)
print(done.rank, time.monotonic() - began, use.ru_maxrss / 1024, use.ru_utime + use.ru_stime)
"""


async def one(port: int, key: list[object], host: str, local: int, order: int, source: str) -> int:
    """Say hello, wait for the answer, come again where nobody is there; the rank."""
    hello = {"key": key, "host": host, "local": local, "order": order, "port": 1, "topology": "",
             "leader": "127.0.0.1"}  # fmt: skip
    end = time.monotonic() + GIVES_UP_S
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port,
                                                           local_addr=(source, 0))  # fmt: skip
            writer.write(json.dumps(hello).encode() + b"\n")
            line = b"\n"
            while line == b"\n":
                line = await reader.readline()
            writer.close()
            if line:
                return int(json.loads(line)["placed"]["rank"])
        except OSError:
            await asyncio.sleep(0.1)
    raise SystemExit(f"process {order}: the leader has ended, or was never there")


async def followers(plan: Path, port: int, ranks: int, helper: int) -> list[tuple[int, int, int]]:
    """(host, local, rank) of this helper's share of all but the first process."""
    data = plan.read_bytes()
    key: list[object] = ["j", 0, hashlib.sha256(data).hexdigest()[:16]]
    mine = range(1 + helper, ranks, HELPERS)
    got = await asyncio.gather(*(
        one(port, key, f"n{n // 8}", n % 8, n, f"127.0.{1 + helper}.1") for n in mine))  # fmt: skip
    return [(n // 8, n % 8, rank) for n, rank in zip(mine, got, strict=True)]


def main() -> None:
    """Run it once."""
    if len(sys.argv) == 5:  # a helper
        plan, port, ranks, helper = Path(sys.argv[1]), *map(int, sys.argv[2:])
        print(json.dumps(asyncio.run(followers(plan, port, ranks, helper))))
        return
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = plan_train(Job(model="llama-3.1-405b", tokens=10**12, seq_len=8192, global_batch=2048,
                          accelerators=("h100-sxm",), chips=ranks))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        plan = Path(folder, "plan.json")
        plan.write_text(plan_to_json(made), encoding="utf-8")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        assert made.rank_map is not None, "every plan has a rank map"
        print(f"plan.json: {plan.stat().st_size:,} bytes for {ranks:,} ranks "
              f"({len(made.rank_map.runs)} runs)")  # fmt: skip
        leader = subprocess.Popen([sys.executable, "-c", LEADER, str(plan), f"127.0.0.1:{port}",
                                   str(ranks)], stdout=subprocess.PIPE, text=True)  # fmt: skip
        time.sleep(1.0)  # it leads: it is the first to bind
        began = time.monotonic()
        helpers = [subprocess.Popen([sys.executable, __file__, str(plan), str(port), str(ranks),
                                     str(n)], stdout=subprocess.PIPE, text=True,
                                    env={**os.environ, "OMP_NUM_THREADS": "1"})
                   for n in range(HELPERS)]  # fmt: skip
        answers = [one for helper in helpers for one in json.loads(helper.communicate()[0])]
        took = time.monotonic() - began
        rank, waited, peak_mb, cpu_s = map(float, leader.communicate()[0].split())
        wanted = {(slot, local): n for n, (slot, local) in
                  enumerate(slots_of(json.loads(plan.read_text())))}  # fmt: skip
    answers.append((0, 0, int(rank)))
    right = sum(wanted[host, local] == got for host, local, got in answers)
    print(
        f"leader: {waited:.1f} s in all, {cpu_s:.1f} s of its processor, {peak_mb:.0f} MB at most"
    )
    print(f"{right:,} of {ranks:,} ranks as planned, {took:.1f} s from the start of the others")
    sys.exit(int(right < ranks))


if __name__ == "__main__":
    main()
