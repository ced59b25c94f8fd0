"""Chakra's traces against the public schema: protobuf itself reads them, as the feeder would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from weftline.fabric.algorithms import build
from weftline.fabric.formats.programs import chakra
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.parse import parse_topology

SCHEMA = Path(__file__).parent / "data" / "network" / "et_def.proto"
descriptor_pb2: Any = pytest.importorskip("google.protobuf.descriptor_pb2")
# Which field of the oneof the feeder takes each attribute from; any other reads as zero.
# github.com/mlcommons/chakra 21585d8f, src/feeder/et_feeder_node.cpp
FEEDER = {
    "is_cpu_op": "bool_val", "comm_size": "int64_val", "comm_src": "int32_val",
    "comm_dst": "int32_val", "comm_tag": "int32_val",
}  # fmt: skip


def _messages() -> dict[str, Any]:
    """The schema's messages, from its text: proto3, one oneof, scalars, lists and enums."""
    from google.protobuf import descriptor_pool, message_factory

    text = re.sub(r"//[^\n]*", "", SCHEMA.read_text("utf-8"))
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", syntax="proto3")
    file.package = re.search(r"package (\w+);", text)[1]  # type: ignore[index]
    kinds = {n.lower().removeprefix("type_"): v
             for n, v in descriptor_pb2.FieldDescriptorProto.Type.items()}  # fmt: skip
    enums = set(re.findall(r"enum (\w+)", text))
    for name, body in re.findall(r"enum (\w+)\s*\{([^}]*)\}", text):
        enum = file.enum_type.add(name=name)
        for value, number in re.findall(r"(\w+)\s*=\s*(\d+);", body):
            enum.value.add(name=value, number=int(number))
    for name, body in re.findall(r"message (\w+)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", text):
        message = file.message_type.add(name=name)
        inside = re.search(r"oneof \w+\s*\{([^}]*)\}", body)
        one_of = set(re.findall(r"(\w+)\s*=", inside[1])) if inside else set()
        if inside:
            message.oneof_decl.add(name="value")
        for label, kind, field, number in re.findall(r"(repeated )?(\w+) (\w+)\s*=\s*(\d+);", body):
            entry = message.field.add(name=field, number=int(number), label=3 if label else 1)
            if kind in kinds:
                entry.type = kinds[kind]
            else:
                entry.type = kinds["enum" if kind in enums else "message"]
                entry.type_name = f".{file.package}.{kind}"
            if field in one_of:
                entry.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [m.name for m in file.message_type]
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{n}"))
            for n in names}  # fmt: skip


def _stream(data: bytes) -> list[bytes]:
    """Messages after their lengths, as ProtoInputStream reads them."""
    found, at = [], 0
    while at < len(data):
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append(data[at : at + size])
        at += size
    return found


def test_the_feeder_finds_every_attribute_in_the_field_it_reads() -> None:
    messages = _messages()
    topology = parse_topology("torus:2x3", link="100GB/s")
    made = build(topology, "all-reduce", "bucket")
    flat = expand(made) if isinstance(made, OrbitSchedule) else made
    nodes = 0
    for rank, data in enumerate(chakra.write(flat, 6e9)):
        head, *rest = _stream(data)
        meta = messages["GlobalMetadata"].FromString(head)
        assert meta.version == chakra.SCHEMA
        ids = set()
        for raw in rest:
            node = messages["Node"].FromString(raw)
            assert node.id not in ids
            assert set(node.data_deps) <= ids
            ids.add(node.id)
            held = {a.name: a for a in node.attr}
            for name, field in FEEDER.items():
                if name in held:
                    assert held[name].WhichOneof("value") == field, name
            other = "comm_dst" if node.type == chakra.SEND else "comm_src"
            assert held[other].int32_val in set(range(6)) - {rank}
            assert held["comm_size"].int64_val > 0
            nodes += 1
    assert nodes == 2 * flat.rows
