"""Chakra execution traces (.et): one protobuf stream a rank, as ASTRA-sim reads them.

A stream is a GlobalMetadata and then Nodes, each after its length as a varint (mlcommons/chakra
schema/protobuf/et_def.proto). A row of a schedule is a COMM_SEND_NODE at its source and a
COMM_RECV_NODE at its destination with one tag; data dependences are those the data needs. Our own
attributes beside them (``weftline_*``) let a trace be read back as the schedule it came from.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.fabric.formats.programs.units import events_of, in_units
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.schedule import Schedule

FORMAT = "chakra"
SCHEMA = "0.0.4"
SEND, RECEIVE, COLLECTIVE = 5, 6, 7
NODE_TYPES: Final = (
    "INVALID_NODE", "METADATA_NODE", "MEM_LOAD_NODE", "MEM_STORE_NODE", "COMP_NODE",
    "COMM_SEND_NODE", "COMM_RECV_NODE", "COMM_COLL_NODE", "STORAGE_NODE", "BATCH_NODE",
    "CHECKPOINT_NODE",
)  # fmt: skip
Value = int | float | bool | str | bytes | list[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a trace."""

    id: int
    name: str = ""
    type: int = 0
    control: tuple[int, ...] = ()
    data: tuple[int, ...] = ()
    start_us: int = 0
    duration_us: int = 0
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One rank's trace."""

    version: str = SCHEMA
    attributes: Mapping[str, Value] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()


_FIELD_OF: Final[Mapping[str, int]] = {
    "comm_src": 7, "comm_dst": 7, "comm_tag": 7, "comm_priority": 7, "tensor_size": 13,
}  # fmt: skip
"""The integers that the feeder takes from another field than ``int64_val``: int32_val, uint64_val
(github.com/mlcommons/chakra 21585d8f, src/feeder/et_feeder_node.cpp). From the wrong one it reads
a zero without a word."""

# --- protobuf's wire format ---------------------------------------------------------------------


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while True:
        low = value & 0x7F
        value >>= 7
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _field(number: int, wire: int, body: bytes) -> bytes:
    return _varint(number << 3 | wire) + (_varint(len(body)) if wire == 2 else b"") + body


def _attribute(name: str, value: Value) -> bytes:
    """AttributeProto: the oneof's field follows from the Python type."""
    out = _field(1, 2, name.encode())
    if isinstance(value, bool):
        return out + _field(27, 0, _varint(int(value)))
    if isinstance(value, int):
        number = _FIELD_OF.get(name, 9 if value < 2**63 else 13)
        return out + _field(number, 0, _varint(value))
    if isinstance(value, float):
        return out + _field(3, 1, struct.pack("<d", value))
    if isinstance(value, str):
        return out + _field(29, 2, value.encode())
    if isinstance(value, bytes):
        return out + _field(31, 2, value)
    if all(isinstance(v, bool) for v in value):
        return out + _field(28, 2, _field(1, 2, b"".join(_varint(int(v)) for v in value)))
    if all(isinstance(v, int) for v in value):
        return out + _field(10, 2, _field(1, 2, b"".join(_varint(v) for v in value)))
    if all(isinstance(v, float) for v in value):
        return out + _field(4, 2, _field(1, 2, struct.pack(f"<{len(value)}d", *value)))
    return out + _field(30, 2, b"".join(_field(1, 2, str(v).encode()) for v in value))


def encode(trace: Trace) -> bytes:
    """The bytes of an .et file."""
    head = _field(1, 2, trace.version.encode())
    head += b"".join(_field(2, 2, _attribute(k, v)) for k, v in trace.attributes.items())
    parts = [_varint(len(head)), head]
    for node in trace.nodes:
        body = _field(1, 0, _varint(node.id)) + _field(2, 2, node.name.encode())
        body += _field(3, 0, _varint(node.type))
        for number, ids in ((4, node.control), (5, node.data)):
            if ids:
                body += _field(number, 2, b"".join(_varint(i) for i in ids))
        if node.start_us:
            body += _field(6, 0, _varint(node.start_us))
        if node.duration_us:
            body += _field(7, 0, _varint(node.duration_us))
        body += b"".join(_field(10, 2, _attribute(k, v)) for k, v in node.attributes.items())
        parts += [_varint(len(body)), body]
    return b"".join(parts)


def _read_varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 2**64 - 1, at
        shift += 7
        if shift > 63:
            break
    raise InputError(f"byte {at}: a number does not end", where=where, hint="is this an .et file?")


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int, int, bytes]]:
    """(field, wire type, number value, bytes) of one message; raises InputError where it breaks."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at, where)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _read_varint(data, at, where)
            yield number, wire, value, b""
            continue
        if wire == 2:
            size, at = _read_varint(data, at, where)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise InputError(f"byte {at}: wire type {wire}", where=where,
                             hint="is this an .et file?")  # fmt: skip
        if at + size > len(data):
            raise InputError(f"byte {at}: the file ends within a field", where=where)
        yield number, wire, 0, data[at : at + size]
        at += size


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


_SCALARS: Final[Mapping[int, str]] = {
    3: "<d", 5: "<f", 19: "<I", 21: "<Q", 23: "<i", 25: "<q",
}  # fmt: skip


def _value(number: int, value: int, body: bytes, where: str) -> Value:
    if number in (7, 9):
        return _signed(value)
    if number in (11, 13):
        return value
    if number in (15, 17):
        return _zigzag(value)
    if number == 27:
        return bool(value)
    if number in _SCALARS:
        found: Value = struct.unpack(_SCALARS[number], body)[0]
        return found
    if number in (29, 31):
        return body.decode("utf-8", "replace") if number == 29 else body
    return _list(number - 1, body, where)


def _list(number: int, body: bytes, where: str) -> list[Any]:
    """The repeated values of a list message, packed or not; ``number`` is its scalar's field."""
    found: list[Any] = []
    for inner, wire, value, part in _fields(body, where):
        if inner != 1:
            continue
        if wire == 2 and number in _SCALARS:
            size = struct.calcsize(_SCALARS[number])
            found += [
                v for (v,) in struct.iter_unpack(_SCALARS[number], part[: len(part) // size * size])
            ]
        elif wire == 2 and number in (7, 9, 11, 13, 15, 17, 27):
            at = 0
            while at < len(part):
                raw, at = _read_varint(part, at, where)
                found.append(_value(number, raw, b"", where))
        else:
            found.append(_value(number, value, part, where))
    return found


def _read_attribute(data: bytes, where: str) -> tuple[str, Value]:
    name, held = "", None
    for number, _, value, body in _fields(data, where):
        if number == 1:
            name = body.decode("utf-8", "replace")
        elif 3 <= number <= 32:
            held = _value(number, value, body, where)
    return name, "" if held is None else held


def decode(data: bytes, where: str) -> Trace:
    """The trace in the bytes of an .et file; raises InputError with the node that breaks."""
    at = count = 0
    version, attributes = "", {}
    nodes: list[Node] = []
    while at < len(data):
        size, at = _read_varint(data, at, where)
        if at + size > len(data):
            raise InputError(f"message {count} of {size} bytes: the file ends before", where=where)
        body = data[at : at + size]
        at += size
        spot = f"{where}: message {count}"
        if count == 0:
            for number, _, _, part in _fields(body, spot):
                if number == 1:
                    version = part.decode("utf-8", "replace")
                elif number == 2:
                    key, held = _read_attribute(part, spot)
                    attributes[key] = held
        else:
            nodes.append(_node(body, spot))
        count += 1
    if count == 0:
        raise InputError("the file is empty", where=where)
    return Trace(version=version, attributes=attributes, nodes=tuple(nodes))


def _node(data: bytes, where: str) -> Node:
    plain: dict[str, Any] = {"id": 0, "attributes": {}}
    deps: dict[int, list[int]] = {4: [], 5: []}
    for number, wire, value, body in _fields(data, where):
        if number in (1, 3, 6, 7):
            key = {1: "id", 3: "type", 6: "start_us", 7: "duration_us"}[number]
            plain[key] = value
        elif number == 2:
            plain["name"] = body.decode("utf-8", "replace")
        elif number in deps and wire == 0:
            deps[number].append(value)
        elif number in deps:
            at = 0
            while at < len(body):
                raw, at = _read_varint(body, at, where)
                deps[number].append(raw)
        elif number == 10:
            key, held = _read_attribute(body, where)
            plain["attributes"][key] = held
    return Node(control=tuple(deps[4]), data=tuple(deps[5]), **plain)


# --- schedules ----------------------------------------------------------------------------------


def write(schedule: Schedule | OrbitSchedule, size_bytes: float) -> list[bytes]:
    """One .et file a rank. Raises InputError where switches take part."""
    flat = expand(schedule) if isinstance(schedule, OrbitSchedule) else schedule
    events = events_of(in_units(flat))
    # Several moves of one row are one message: what any of them waits for, all do.
    counts = [0] * flat.ranks
    number: dict[tuple[str, int], int] = {}
    of_event: list[int] = []
    after: dict[tuple[str, int], set[int]] = {}
    for event in events:
        if event.move is None:  # what an all-to-all keeps is no message
            of_event.append(-1)
            continue
        key = (event.kind, event.move.row)
        if key not in number:
            number[key], counts[event.rank] = counts[event.rank], counts[event.rank] + 1
        of_event.append(number[key])
        after.setdefault(key, set()).update(of_event[i] for i in event.after if of_event[i] >= 0)
    fraction = flat.fractions()
    nodes: list[list[Node]] = [[] for _ in range(flat.ranks)]
    for (kind, row), own in number.items():
        s, d = int(flat.source[row]), int(flat.destination[row])
        waits = tuple(sorted(after[kind, row] - {own}))
        common = {"comm_size": round(float(fraction[row]) * size_bytes), "comm_tag": row,
                  "is_cpu_op": False}  # fmt: skip
        if kind == "send":
            said = {**common, "comm_dst": d, **_row(flat, row)}
            nodes[s].append(Node(id=own, name=f"send row {row} to {d}", type=SEND, data=waits,
                                 attributes=said))  # fmt: skip
        else:
            nodes[d].append(Node(id=own, name=f"receive row {row} from {s}", type=RECEIVE,
                                 data=waits, attributes={**common, "comm_src": s}))  # fmt: skip
    head = {"weftline_schedule": json.dumps(_head(flat, size_bytes))}
    return [
        encode(Trace(attributes=head, nodes=tuple(sorted(n, key=lambda x: x.id)))) for n in nodes
    ]


def _row(flat: Schedule, row: int) -> dict[str, Value]:
    return {
        "weftline_step": int(flat.step[row]), "weftline_colour": int(flat.colour[row]),
        "weftline_first": int(flat.first_chunk[row]), "weftline_count": int(flat.chunk_count[row]),
        "weftline_reduce": bool(flat.reduce[row]),
    }  # fmt: skip


def _head(flat: Schedule, size_bytes: float) -> dict[str, Any]:
    return {
        "collective": flat.collective, "algorithm": flat.algorithm, "ranks": flat.ranks,
        "root": flat.root, "size_bytes": size_bytes, "share": flat.share.tolist(),
        "owner": None if flat.owner is None else flat.owner.tolist(),
        "target": None if flat.target is None else flat.target.tolist(),
    }  # fmt: skip


def read_schedule_traces(traces: Sequence[Trace], where: str) -> Schedule:
    """The schedule that traces written by ``write`` hold; raises InputError for others.

    A trace without our attributes says who sends how much to whom and when, not which chunks: it
    can be looked at (``decode``) but is no schedule.
    """
    head = traces[0].attributes.get("weftline_schedule") if traces else None
    if not isinstance(head, str):
        raise InputError("the traces do not say which chunks a message carries", where=where,
                         hint="only traces that weftline wrote become schedules")  # fmt: skip
    plain = json.loads(head)
    rows: dict[int, list[int]] = {}
    for source, trace in enumerate(traces):
        for node in trace.nodes:
            if node.type == SEND:
                a = node.attributes
                keys = ("weftline_step", "weftline_first", "weftline_count", "weftline_reduce",
                        "weftline_colour")  # fmt: skip
                if any(k not in a for k in ("comm_dst", "comm_tag", *keys)):
                    raise InputError(f"node {node.id} of rank {source} lacks an attribute",
                                     where=where)  # fmt: skip
                rows[int(a["comm_tag"])] = [  # type: ignore[arg-type]
                    source, int(a["comm_dst"]), *(int(a[k]) for k in keys),  # type: ignore[arg-type]
                ]  # fmt: skip
    if len(traces) != plain["ranks"]:
        raise InputError(f"{len(traces)} traces of {plain['ranks']} ranks", where=where,
                         hint="give all files NAME.0.et, NAME.1.et, ...")  # fmt: skip
    table = np.asarray([rows[k] for k in sorted(rows)], dtype=np.int64).reshape(-1, 7)

    def ends(key: str) -> Any:
        return None if plain[key] is None else np.asarray(plain[key], dtype=np.int64)

    return Schedule(
        collective=plain["collective"], algorithm=plain["algorithm"], ranks=plain["ranks"],
        root=plain["root"], share=np.asarray(plain["share"], dtype=np.float64),
        owner=ends("owner"), target=ends("target"), source=table[:, 0], destination=table[:, 1],
        step=table[:, 2], first_chunk=table[:, 3], chunk_count=table[:, 4],
        reduce=table[:, 5].astype(np.bool_), colour=table[:, 6],
    )  # fmt: skip
