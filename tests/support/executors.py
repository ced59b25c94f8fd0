"""Consumers of schedule files, written from the public formats and not from our writers.

``load_msccl`` and ``load_mscclpp`` refuse what the executors' own loaders refuse; ``run_msccl`` and
``run_mscclpp`` execute what was loaded on numbers, in a random order of thread blocks that the
file's own waits allow: a wait that lacks shows as a wrong number, one too many as a standstill.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import numpy as np

# --- MSCCL ----------------------------------------------------------------------------------------

MSCCL_RULES: dict[str, dict[str, Any]] = {
    # github.com/Azure/msccl-executor-nccl c6f6b36d, src/misc/msccl/msccl_parser.cc and
    # src/include/msccl/msccl_struct.h; github.com/Azure/msccl-scheduler a0bfca14, src/parser.cc
    "msccl-executor-nccl": {
        "algo": ("nchunksperloop", "nchannels", "ngpus", "proto", "coll", "minBytes", "maxBytes",
                 "inplace", "outofplace"),
        "coll": ("reduce", "broadcast", "allreduce", "reducescatter", "allgather", "send", "recv",
                 "gather", "scatter", "alltoall", "alltoallv"),
        "steps": 256, "blocks": 1024, "per_channel": 32, "channels": 32,
    },
    # github.com/ROCm/rccl 0cbce2a7, the same files
    "rccl": {
        "algo": ("nchunksperloop", "nchannels", "ngpus", "proto", "coll", "minBytes", "maxBytes",
                 "inplace", "outofplace"),
        "coll": ("reduce", "broadcast", "allreduce", "reducescatter", "allgather", "send", "recv",
                 "gather", "scatter", "alltoall", "alltoallv"),
        "steps": 64, "blocks": 64, "per_channel": 32, "channels": 128,
    },
    # github.com/microsoft/msccl b23e9cd5, src/graph/topo.cc, src/include/msccl.h, src/graph/xml.h
    "msccl": {
        "algo": ("name", "ngpus", "nchunksperloop", "nchannels", "proto", "coll", "inplace"),
        "coll": ("allreduce", "allgather", "reduce", "broadcast", "alltoall", "reduce_scatter",
                 "custom"),
        "steps": 256, "blocks": 216, "per_channel": 32, "channels": 32,
    },
}  # fmt: skip
GPU = ("id", "i_chunks", "o_chunks", "s_chunks")
BLOCK = ("id", "send", "recv", "chan")
STEP = ("s", "type", "srcbuf", "srcoff", "dstbuf", "dstoff", "cnt", "depid", "deps", "hasdep")
SEND = {"s", "rcs", "rrs", "rrcs"}
RECEIVE = {"r", "rcs", "rrs", "rrc", "rrcs"}
CHECKS_SOURCE = {"s", "rrs", "rrcs", "cpy", "re"}
CHECKS_TARGET = {"r", "rcs", "rrcs", "cpy", "re"}
NODES, LETTERS, COUNT, OFFSET, WAITED = 4096, 255, 72, 2**15, 2**7


class RefusedError(Exception):
    """What a loader says about a file it does not take."""


def _need(element: ElementTree.Element, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in element.attrib:
            raise RefusedError(f"Attribute {name} of node {element.tag} not found")
    for key, value in element.attrib.items():
        if len(key) > LETTERS or len(value) > LETTERS:
            raise RefusedError(f"{key} too long")


def load_msccl(text: str, consumer: str) -> ElementTree.Element:
    """The file as ``consumer`` takes it; RefusedError where its parser stops."""
    rules = MSCCL_RULES[consumer]
    # The parsers read byte by byte: attributes in double quotes, one blank between them.
    if re.search(r"<\w+[^>]*(='|  |\t)", text):
        raise RefusedError("XML Parse : Expected (double) quote")
    algo = ElementTree.fromstring(text)  # noqa: S314  (written by the test)
    _need(algo, rules["algo"])
    if algo.attrib["coll"] not in rules["coll"]:
        raise RefusedError(f"unsupported collective: {algo.attrib['coll']}")
    if algo.attrib["proto"] not in ("Simple", "LL", "LL128"):
        raise RefusedError("protocol is not supported")
    if int(algo.attrib["nchannels"]) > rules["channels"]:
        raise RefusedError("number of desired channels is more than possible ones")
    least, most = int(algo.attrib.get("minBytes", 0)), int(algo.attrib.get("maxBytes", 1 << 27))
    if not 0 <= least <= most < 2**63:
        raise RefusedError("minBytes cannot be greater than maxBytes")
    ranks = int(algo.attrib["ngpus"])
    assert [int(g.attrib["id"]) for g in algo] == list(range(ranks))
    for gpu in algo:
        _load_gpu(gpu, algo, rules, ranks)
    return algo


def _load_gpu(
    gpu: ElementTree.Element, algo: ElementTree.Element, rules: dict[str, Any], ranks: int
) -> None:
    _need(gpu, GPU)
    loop, coll = int(algo.attrib["nchunksperloop"]), algo.attrib["coll"]
    sizes = {b: int(gpu.attrib[f"{b}_chunks"]) for b in "ios"}
    if rules is MSCCL_RULES["msccl"]:
        inputs = sizes["i"] * (ranks if coll == "allgather" else 1)
        outputs = sizes["o"] * (ranks if coll == "reduce_scatter" else 1)
        if (inputs and inputs != loop) or (outputs and outputs != loop):
            raise RefusedError("Inconsistency between i_chunks/o_chunks and nchunksperloop")
    if len(algo) + 1 + sum(1 + len(tb) for tb in gpu) > NODES:
        raise RefusedError("XML parser is limited to 4096 nodes")
    ids = [int(tb.attrib["id"]) for tb in gpu]
    if sorted(ids) != list(range(len(ids))):
        raise RefusedError("thread block is missing or twice")
    if len(ids) > rules["blocks"]:
        raise RefusedError("too many thread blocks are requested")
    used: dict[tuple[str, str], int] = {}
    for tb in gpu:
        _need(tb, BLOCK)
        peers = {way: int(tb.attrib[way]) for way in ("send", "recv")}
        if any(p < -1 or p >= ranks or p == int(gpu.attrib["id"]) for p in peers.values()):
            raise RefusedError("wrong recvPeer or sendPeer")
        if not 0 <= int(tb.attrib["chan"]) < int(algo.attrib["nchannels"]):
            raise RefusedError("invalid channel")
        for way, peer in peers.items():
            key = (way, tb.attrib["chan"])
            used[key] = used.get(key, 0) + (peer >= 0)
            if used[key] > rules["per_channel"]:
                raise RefusedError("too many sends per channel")
        _load_steps(tb, gpu, rules, sizes)


def _load_steps(
    tb: ElementTree.Element, gpu: ElementTree.Element, rules: dict[str, Any], sizes: dict[str, int]
) -> None:
    waiting = False
    for number, step in enumerate(tb):
        _need(step, STEP)
        a = step.attrib
        if int(a["s"]) != number or number >= rules["steps"]:
            raise RefusedError("too many steps are requested")
        if a["type"] not in (*SEND, *RECEIVE, "cpy", "re", "nop"):
            raise RefusedError("type of transfer is not supported")
        wait = int(a["depid"])
        if wait >= 0:
            other = gpu[wait][int(a["deps"])]
            if wait >= WAITED or other.attrib["hasdep"] != "1":
                raise RefusedError("waits for a step that tells nobody")
        if a["type"] == "nop":
            waiting = True
            continue
        if waiting and wait < 0:
            raise RefusedError("when there is a chain of dependencies, the last must be a part of "
                               "the first immediate instruction")  # fmt: skip
        waiting = False
        if not 0 <= int(a["cnt"]) < COUNT:
            raise RefusedError("count must be positive and less than 72")
        if (a["type"] in SEND and int(tb.attrib["send"]) < 0) or (
            a["type"] in RECEIVE and int(tb.attrib["recv"]) < 0
        ):
            raise RefusedError("there is a send without a sendPeer")
        for kind, buffer, offset in ((CHECKS_SOURCE, a["srcbuf"], a["srcoff"]),
                                     (CHECKS_TARGET, a["dstbuf"], a["dstoff"])):  # fmt: skip
            if a["type"] in kind and not (
                -1 <= int(offset) < sizes[buffer] and int(offset) < OFFSET
            ):
                raise RefusedError("Incorrect offset set")
    if waiting:
        raise RefusedError("a wait with no step after it")


def memories(
    coll: str, ranks: int, chunks: int, scratch: list[int], seed: int, *, in_place: bool
) -> tuple[list[dict[str, Any]], Any]:
    """Buffers of every rank with random numbers, and what must stand in the outputs: [ranks, out].

    ``chunks`` are those of the larger of input and output of one rank.
    """
    rng = np.random.default_rng(seed)
    small = chunks // ranks
    wide_in, wide_out = coll != "allgather", coll not in ("reducescatter", "reduce_scatter")
    inputs = rng.integers(1, 2**40, (ranks, chunks if wide_in else small))
    if coll == "allreduce":
        wanted = np.tile(inputs.sum(0), (ranks, 1))
    elif coll == "allgather":
        wanted = np.tile(inputs.reshape(-1), (ranks, 1))
    elif coll == "alltoall":
        wanted = inputs.reshape(ranks, ranks, small).transpose(1, 0, 2).reshape(ranks, -1)
    elif coll == "broadcast":
        wanted = np.tile(inputs[0], (ranks, 1))
    else:
        wanted = inputs.sum(0).reshape(ranks, small)
    held = []
    for r in range(ranks):
        poison = rng.integers(2**50, 2**51, chunks)
        if not in_place:
            own, out = inputs[r].copy(), poison[: chunks if wide_out else small]
        elif wide_in and wide_out:
            own = out = inputs[r].copy()
        elif wide_out:
            out = poison
            own = out[r * small : (r + 1) * small]
            own[:] = inputs[r]
        else:
            own = inputs[r].copy()
            out = own[r * small : (r + 1) * small]
        held.append({"i": own, "o": out, "s": rng.integers(2**50, 2**51, scratch[r])})
    return held, wanted


def run_msccl(algo: ElementTree.Element, seed: int, *, slots: int = 0) -> bool:
    """Execute; whether every rank ends with the right numbers. A standstill is False.

    ``slots`` messages of a connection may be under way; none: a send waits for its receive.
    """
    rng = random.Random(seed)
    scratch = [int(g.attrib["s_chunks"]) for g in algo]
    held, wanted = memories(algo.attrib["coll"], len(algo), int(algo.attrib["nchunksperloop"]),
                            scratch, seed, in_place=algo.attrib["inplace"] == "1")  # fmt: skip
    at = {(g, b): 0 for g, gpu in enumerate(algo) for b in range(len(gpu))}
    wires: dict[tuple[int, int, str], list[Any]] = {}

    def step(key: tuple[int, int]) -> dict[str, str] | None:
        block = algo[key[0]][key[1]]
        return block[at[key]].attrib if at[key] < len(block) else None

    def ready(key: tuple[int, int]) -> bool:
        a = step(key)
        return a is not None and (
            int(a["depid"]) < 0 or at[key[0], int(a["depid"])] > int(a["deps"])
        )

    def part(rank: int, a: dict[str, str], end: str) -> Any:
        first = int(a[f"{end}off"])
        return held[rank][a[f"{end}buf"]][first : first + int(a["cnt"])]

    def wire(key: tuple[int, int], way: str) -> tuple[int, int, str]:
        a = algo[key[0]][key[1]].attrib
        ends = (key[0], int(a["send"])) if way == "send" else (int(a["recv"]), key[0])
        return (*ends, a["chan"])

    receivers = {wire((g, b), "recv"): (g, b) for g, gpu in enumerate(algo)
                 for b, tb in enumerate(gpu) if int(tb.attrib["recv"]) >= 0}  # fmt: skip
    while True:
        keys = list(at)
        rng.shuffle(keys)
        moved = [_msccl_step(k, step, ready, part, wire, wires, receivers, at, slots)
                 for k in keys if rng.random() < 0.7 and ready(k)]  # fmt: skip
        if not any(moved) and not any(
            _msccl_step(k, step, ready, part, wire, wires, receivers, at, slots)
            for k in keys if ready(k)
        ):  # fmt: skip
            break
    if any(step(k) is not None for k in at) or any(wires.values()):
        return False
    return all(np.array_equal(held[r]["o"], wanted[r]) for r in range(len(algo)))


def _msccl_step(key, step, ready, part, wire, wires, receivers, at, slots):  # type: ignore[no-untyped-def]
    """One step of one thread block; False where it cannot go on."""
    a, rank = step(key), key[0]
    kind = a["type"]
    if kind in RECEIVE:
        queue = wires.setdefault(wire(key, "recv"), [])
        if not queue:
            return False
    if kind in SEND:
        line = wires.setdefault(wire(key, "send"), [])
        peer = receivers[wire(key, "send")]
        if len(line) >= max(slots, 1):
            return False
        if slots == 0 and not (ready(peer) and step(peer)["type"] in RECEIVE):
            return False
    if kind == "cpy":
        part(rank, a, "dst")[:] = part(rank, a, "src").copy()
    elif kind == "re":
        part(rank, a, "dst")[:] += part(rank, a, "src")
    sent = part(rank, a, "src").copy() if kind == "s" else None
    if kind in RECEIVE:
        sent = wires[wire(key, "recv")].pop(0)
        if kind in ("rrc", "rrcs", "rrs"):
            sent = sent + part(rank, a, "src")
        if kind != "rrs":
            part(rank, a, "dst")[:] = sent
    if kind in SEND:
        wires[wire(key, "send")].append(sent)
    at[key] += 1
    return True


# --- MSCCL++ --------------------------------------------------------------------------------------

# github.com/microsoft/mscclpp 1f5f065d, src/core/include/execution_common.hpp
OPERATIONS, CHANNELS, CHANNELS_EACH, BUFFERS_EACH = 64, 16, 8, 10


def load_mscclpp(text: str) -> dict[str, Any]:
    """The plan as the executor's loader takes it; RefusedError or KeyError where it stops."""
    plan: dict[str, Any] = json.loads(text)
    for name in ("name", "collective", "protocol", "inplace", "gpus"):
        plan[name]
    for number, gpu in enumerate(plan["gpus"]):
        assert gpu["id"] == number
        memory = [p for c in gpu["channels"] if c["channel_type"] == "memory"
                  for p in c["connected_to"]]  # fmt: skip
        assert [b["id"] for b in gpu["threadblocks"]] == list(range(len(gpu["threadblocks"])))
        for block in gpu["threadblocks"]:
            ids = [i for c in block["channels"] if c["channel_type"] == "memory"
                   for i in c["channel_ids"]]  # fmt: skip
            refs = [i for r in block["remote_buffer_refs"] for i in r["remote_buffer_ids"]]
            if max(len(ids), len(refs)) > CHANNELS or any(i >= len(memory) for i in ids):
                raise RefusedError("channels of a thread block")
            if len(block["ops"]) > OPERATIONS:
                raise RefusedError("operations of a thread block")
            for op in block["ops"]:
                chosen = op.get("channel_ids", [])
                if len(chosen) > CHANNELS_EACH or any(c >= len(ids) for c in chosen):
                    raise RefusedError("channels of an operation")
                if max(len(op.get(k, ())) for k in ("src_buff", "dst_buff")) > BUFFERS_EACH:
                    raise RefusedError("buffers of an operation")
    return plan


@dataclass
class _Machine:
    plan: dict[str, Any]
    held: list[dict[str, Any]]
    cut: int
    sent: dict[tuple[int, int, int], int] = field(default_factory=dict)
    taken: dict[tuple[int, int, int], int] = field(default_factory=dict)
    semaphores: dict[tuple[int, int], int] = field(default_factory=dict)


def run_mscclpp(plan: dict[str, Any], seed: int, cut: int = 1) -> bool:
    """Execute a plan of puts, copies, sums, signals, semaphores and switch operations."""
    rng = random.Random(seed)
    gpus, coll = plan["gpus"], plan["collective"]
    chunks = max(gpus[0]["input_chunks"], gpus[0]["output_chunks"]) * cut
    held, wanted = memories(coll, len(gpus), chunks, [g["scratch_chunks"] * cut for g in gpus],
                            seed, in_place=plan["inplace"])  # fmt: skip
    machine = _Machine(plan, held, cut)
    for g, gpu in enumerate(gpus):
        for i, semaphore in enumerate(gpu["semaphores"]):
            machine.semaphores[g, i] = semaphore["init_value"]
    at = {(g, b): 0 for g, gpu in enumerate(gpus) for b in range(len(gpu["threadblocks"]))}
    while True:
        keys = [k for k in at if at[k] < len(gpus[k[0]]["threadblocks"][k[1]]["ops"])]
        rng.shuffle(keys)
        moved = False
        for key in keys:
            block = gpus[key[0]]["threadblocks"][key[1]]
            # Some lag behind: a random number of operations each.
            for _ in range(rng.choice((0, 1, 4)) if moved else 1):
                if at[key] == len(block["ops"]):
                    break
                if not _operate(machine, key[0], block, block["ops"][at[key]]):
                    break
                at[key] += 1
                moved = True
        if not moved:
            break
    if keys:
        return False
    return all(np.array_equal(held[r]["o"], wanted[r]) for r in range(len(gpus)))


def _operate(m: _Machine, gpu: int, block: dict[str, Any], op: dict[str, Any]) -> bool:
    name = op["name"]
    if name == "nop":
        return True
    if name in ("sem_acquire", "sem_release"):
        (semaphore,) = op["semaphore_ids"]
        change = 1 if name == "sem_release" else -1
        if m.semaphores[gpu, semaphore] + change < 0:
            return False
        m.semaphores[gpu, semaphore] += change
        return True
    if name in ("signal", "rlxsignal", "wait", "rlxwait"):
        ends = m.plan["gpus"][gpu]["channels"][0]["connected_to"]
        keys = []
        for local in op["channel_ids"]:
            channel = block["channels"][0]["channel_ids"][local]
            nth = ends[:channel].count(ends[channel])
            pair = (gpu, ends[channel]) if "signal" in name else (ends[channel], gpu)
            keys.append((*pair, nth))
        count = m.sent if "signal" in name else m.taken
        if "wait" in name and any(m.sent.get(k, 0) <= m.taken.get(k, 0) for k in keys):
            return False
        for key in keys:
            count[key] = count.get(key, 0) + 1
        return True
    sources = [_views(m, gpu, block, op, b) for b in op["src_buff"]]
    targets = [_views(m, gpu, block, op, b) for b in op["dst_buff"]]
    value = sum(v for part in sources for v in part) if name in ("re", "glres") else None
    if value is None:
        assert name in ("put", "copy", "gstore")
        value = sources[0][0].copy()
    for part in targets:
        for view in part:
            view[:] = value
    return True


def _views(
    m: _Machine, gpu: int, block: dict[str, Any], op: dict[str, Any], buff: dict[str, Any]
) -> list[Any]:
    first, end = buff["index"] * m.cut, (buff["index"] + buff["size"]) * m.cut
    if "tbg_info" in op:
        share = (end - first) // op["tbg_info"]["tbg_size"]
        first += op["tbg_info"]["tb_id"] * share
        end = first + share
    if "switch_channel_id" in buff:
        channel = next(c for c in m.plan["gpus"][gpu]["channels"] if c["channel_type"] == "switch")
        ranks = channel["rank_groups"][0]["ranks"]
        return [m.held[r][channel["buffer_type"]][first:end] for r in ranks]
    rank, buffer = gpu, buff.get("type")
    if "buffer_id" in buff:
        number = block["remote_buffer_refs"][0]["remote_buffer_ids"][buff["buffer_id"]]
        remote = m.plan["gpus"][gpu]["remote_buffers"][number]
        rank, buffer = remote["rank"], remote["type"]
    return [m.held[rank][buffer][first:end]]
