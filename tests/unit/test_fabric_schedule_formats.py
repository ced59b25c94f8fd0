"""Schedules for MSCCL, MSCCL++ and Chakra: proved after a round trip, refused where wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.cli.main import run
from weftline.errors import InputError
from weftline.fabric.algorithms import algorithms_for, build
from weftline.fabric.checker import check
from weftline.fabric.formats import read_schedule, write_schedule
from weftline.fabric.formats.programs import chakra, msccl, mscclpp, plans
from weftline.fabric.formats.programs.units import in_units
from weftline.fabric.orbit import OrbitSchedule, expand
from weftline.fabric.parse import parse_topology
from weftline.fabric.schedule import COLLECTIVES, Schedule

NETWORKS = ("ring:4", "torus:3x3", "torus:2x4", "mesh:2x3", "switch:5", "full-mesh:4",
            "switch:4/clos:2")  # fmt: skip


def _flat(network: str, collective: str, algorithm: str) -> Schedule:
    link = "100GB/s,10GB/s" if "/" in network else "100GB/s"
    topology = parse_topology(network, link=link, latency="1us")
    made = build(topology, collective, algorithm)  # type: ignore[arg-type]
    return expand(made) if isinstance(made, OrbitSchedule) else made


def _cases() -> list[tuple[str, str, str]]:
    found = []
    for network in NETWORKS:
        link = "100GB/s,10GB/s" if "/" in network else "100GB/s"
        topology = parse_topology(network, link=link)
        for collective in COLLECTIVES:
            found += [(network, collective, a) for a in algorithms_for(topology, collective)]
    return found


def _traffic(schedule: Schedule) -> Any:
    """[ranks**2] share of the buffer that each rank sends to each."""
    pair = schedule.source * schedule.ranks + schedule.destination
    return np.bincount(pair, weights=schedule.fractions(), minlength=schedule.ranks**2)


@pytest.mark.parametrize(("network", "collective", "algorithm"), _cases())
def test_written_schedules_are_read_back_right(
    network: str, collective: str, algorithm: str
) -> None:
    """Proved by the checker, the same bytes between the same ranks, in no more steps."""
    flat = _flat(network, collective, algorithm)
    traces = [chakra.decode(data, "f") for data in chakra.write(flat, 2.0**20)]
    found = [mscclpp.read(plans.write(flat, instances=1), "f"),
             chakra.read_schedule_traces(traces, "f")]  # fmt: skip
    if collective != "send":
        found.append(msccl.read(msccl.write(flat), "f"))
    for back in found:
        check(back)
        assert back.collective == collective
        assert back.steps <= flat.steps
        np.testing.assert_allclose(_traffic(back), _traffic(flat), atol=1e-12)


def test_chakra_traces_hold_the_very_rows() -> None:
    flat = _flat("torus:2x4", "all-reduce", "bucket")
    traces = [chakra.decode(data, "f") for data in chakra.write(flat, 1e6)]
    back = chakra.read_schedule_traces(traces, "f")
    for name in ("step", "source", "destination", "first_chunk", "chunk_count", "reduce", "colour"):
        assert np.array_equal(getattr(back, name), getattr(flat, name)), name
    sent = sum(float(n.attributes["comm_size"]) for t in traces for n in t.nodes  # type: ignore[arg-type]
               if n.type == chakra.SEND)  # fmt: skip
    assert sent == pytest.approx(flat.fractions().sum() * 1e6, rel=1e-3)
    # What a rank sends on, it waits for: dependences point to earlier nodes of the same rank.
    for trace in traces:
        assert all(d < n.id for n in trace.nodes for d in n.data)
        assert any(n.data for n in trace.nodes)


# --- against others' words ----------------------------------------------------------------------

# Two messages encoded by Google's protobuf 6 from et_def.proto: metadata with a double, and a node
# with packed dependences and attributes of nine kinds.
PROTOBUF = bytes.fromhex(
    "110a0178120c0a016419000000000000f83f9201080312016318072a040102ac023809520e0a016138fbffffffffff"
    "ffffff0152060a0162d80101520a0a016ce201040a02010052050a0173780d52080a01662d0000204052180a02646c"
    "22120a10000000000000f03f000000000000004052130a02696c520d0a0bffffffffffffffffff0105520d0a02736c"
    "f201060a01780a0179520e0a026678a9014d00000000000000"
)


def test_chakra_reads_what_protobuf_wrote() -> None:
    trace = chakra.decode(PROTOBUF, "f")
    assert (trace.version, trace.attributes) == ("x", {"d": 1.5})
    (node,) = trace.nodes
    assert (node.id, node.name, node.type, node.data) == (3, "c", 7, (1, 2, 300))
    assert node.duration_us == 9
    assert node.attributes == {
        "a": -5, "b": True, "l": [True, False], "s": -7, "f": 2.5, "dl": [1.0, 2.0],
        "il": [-1, 5], "sl": ["x", "y"], "fx": 77,
    }  # fmt: skip


_VALUES = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(),
    st.binary(), st.lists(st.booleans(), min_size=1), st.lists(st.text(), min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
)  # fmt: skip


@given(st.dictionaries(st.text(), _VALUES, max_size=4), st.lists(st.integers(0, 2**64 - 1)))
@settings(max_examples=60, deadline=None)
def test_traces_round_trip(attributes: dict[str, Any], deps: list[int]) -> None:
    node = chakra.Node(id=5, name="n", type=5, data=tuple(deps), control=(1, 2), start_us=3,
                       attributes=attributes)  # fmt: skip
    trace = chakra.Trace(attributes=attributes, nodes=(node, chakra.Node(id=6)))
    assert chakra.decode(chakra.encode(trace), "f") == trace


# A two-rank all-reduce as msccl-tools writes fused steps: rank 0 sends, rank 1 adds and sends the
# sum back in one step.
_REST = 'dstbuf="i" dstoff="0" cnt="1" depid="-1" deps="-1" hasdep="0"/>'
FUSED = f"""\
<algo name="two" proto="LL" nchannels="1" nchunksperloop="1" ngpus="2" coll="allreduce" inplace="1">
  <gpu id="0" i_chunks="1" o_chunks="0" s_chunks="0">
    <tb id="0" send="1" recv="1" chan="0">
      <step s="0" type="s" srcbuf="i" srcoff="0" {_REST}
      <step s="1" type="r" srcbuf="i" srcoff="0" {_REST}
    </tb>
  </gpu>
  <gpu id="1" i_chunks="1" o_chunks="0" s_chunks="0">
    <tb id="0" send="0" recv="0" chan="0">
      <step s="0" type="rrcs" srcbuf="i" srcoff="0" {_REST}
    </tb>
  </gpu>
</algo>
"""


def test_fused_msccl_steps_are_two_rows() -> None:
    found = msccl.read(FUSED, "f")
    check(found)
    assert found.step.tolist() == [0, 1]
    assert found.reduce.tolist() == [True, False]


def _plan(*ranks: list[dict[str, Any]], remote: str = "s") -> str:
    """An MSCCL++ plan of two ranks: one thread block and one channel each, two remote buffers."""
    gpus = [
        {
            "id": r, "input_chunks": 2, "output_chunks": 2, "scratch_chunks": 2,
            "threadblocks": [{
                "id": 0, "ops": ops,
                "channels": [{"channel_type": "memory", "channel_ids": [0]}],
                "remote_buffer_refs": [
                    {"access_channel_type": "memory", "remote_buffer_ids": [0, 1]}],
            }],
            "channels": [{"channel_type": "memory", "connected_to": [1 - r]}],
            "remote_buffers": [{"rank": 1 - r, "type": b, "access_channel_types": ["memory"]}
                               for b in (remote, "i")],
        }
        for r, ops in enumerate(ranks)
    ]  # fmt: skip
    return json.dumps({"name": "p", "collective": "allreduce", "protocol": "Simple",
                       "inplace": True, "gpus": gpus})  # fmt: skip


def _ref(index: int, kind: str | None = None, buffer: int | None = None) -> dict[str, Any]:
    place = {"type": kind} if kind is not None else {"buffer_id": buffer}
    return {**place, "index": index, "size": 1}


def _half(own: int, other: int) -> list[dict[str, Any]]:
    """Stage the half the peer adds up, read and add the own half from the peer, send the sum."""
    signal = {"name": "signal", "channel_ids": [0], "channel_type": "memory"}
    wait = {**signal, "name": "wait"}
    return [
        {"name": "copy", "src_buff": [_ref(other, "i")], "dst_buff": [_ref(other, "s")]},
        signal, wait,
        {"name": "rres", "channel_type": "memory", "reduce_op": "sum",
         "src_buff": [_ref(own, "i"), _ref(own, buffer=0)],
         "dst_buff": [_ref(own, "i"), _ref(own, buffer=1)]},
        signal, wait,
    ]  # fmt: skip


def test_mscclpp_read_reduce_send_becomes_rows() -> None:
    found = mscclpp.read(_plan(_half(0, 1), _half(1, 0)), "f")
    check(found)
    assert found.rows == 4
    assert sorted(found.reduce.tolist()) == [False, False, True, True]


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type="rrcs"', 'type="rrxs"', r"f:10: unknown step type `rrxs`"),
        ('type="s" ', 'type="r" ', "waits for ever"),
        ('coll="allreduce"', 'coll="allreduse"', "unknown collective"),
        ('ngpus="2"', 'ngpus="3"', "ngpus is 3"),
        ('cnt="1"', 'cnt="999999999999"', "f:4: `cnt="),
        ('nchunksperloop="1"', 'nchunksperloop="999999999999"', "units of input"),
        ('type="s" srcbuf="i"', 'type="s" srcbuf="s"', r"f:4: rank 0 reads s\[0\]"),
        ("</gpu>\n</algo>", "</gpu>", "not XML"),
        ("<algo", '<!DOCTYPE a [<!ENTITY x "y">]><algo', "refused"),
        ('<tb id="0" send="1"', '<step id="0" send="1"', "<step> in <gpu>"),
        ('chan="0">\n      <step s="0" type="s"', 'chan="zero">\n      <step s="0" type="s"',
         'f:3: `chan="zero"`'),
    ],
)  # fmt: skip
def test_wrong_msccl_files_name_the_line(old: str, new: str, said: str) -> None:
    assert old in FUSED
    with pytest.raises(InputError, match=said):
        msccl.read(FUSED.replace(old, new, 1), "f")


def test_a_billion_laughs_are_refused_before_any_is_expanded() -> None:
    layers = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "ha">{layers}]><algo name="&l8;"/>'
    with pytest.raises(InputError, match="refused"):
        msccl.read(bomb, "f")


def test_wrong_mscclpp_plans_are_refused_by_name() -> None:
    with pytest.raises(
        InputError,
        match="operation 0: unknown operation `gadd`",
    ):
        mscclpp.read(_plan([{"name": "gadd"}], []), "f")
    with pytest.raises(InputError, match="waits for ever at operation 0"):
        mscclpp.read(_plan([{"name": "wait", "channel_ids": [0]}], []), "f")
    with pytest.raises(InputError, match="holds nothing"):
        mscclpp.read(_plan([{"name": "copy", "src_buff": [_ref(0, "s")],
                             "dst_buff": [_ref(0, "i")]}], []), "f")  # fmt: skip
    with pytest.raises(InputError, match="field is missing"):
        mscclpp.read('{"collective": "allreduce", "gpus": [{"id": 0}]}', "f")
    with pytest.raises(InputError, match="not JSON"):
        mscclpp.read("{", "f")


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_traces_never_end_in_a_traceback(data: st.DataObject) -> None:
    whole = chakra.write(_flat("ring:4", "all-gather", "ring"), 1e6)[0]
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = data.draw(st.sampled_from([whole[:at], whole[:at] + bytes([byte]) + whole[at + 1 :]]))
    try:
        chakra.decode(damaged, "f")
    except InputError:
        return


def test_what_executors_cannot_do_is_said() -> None:
    topology = parse_topology("switch:4,nvls", link="100GB/s")
    made = build(topology, "all-reduce", "nvls")
    flat = expand(made) if isinstance(made, OrbitSchedule) else made
    for to in ("msccl", "chakra"):
        with pytest.raises(InputError, match="in the switch"):
            write_schedule(flat, to, 1e6)


def test_chunks_of_unequal_size_become_equal_pieces() -> None:
    flat = _flat("ring:4", "all-reduce", "ring")
    share = flat.share.copy()
    share[0], share[1] = share[0] * 1.5, share[1] - share[0] * 0.5
    from dataclasses import replace

    units = in_units(replace(flat, share=share))
    assert units.total == 2 * flat.chunks
    check(msccl.read(msccl.write(replace(flat, share=share)), "f"))


# --- the command --------------------------------------------------------------------------------


def test_export_writes_files_that_are_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [
        "export-schedule",
        "all-reduce",
        "1MB",
        "--algorithm",
        "bucket",
        "--on",
        "torus:2x2",
        "--link",
        "100GB/s",
    ]
    for to, name in (("msccl", "a.xml"), ("mscclpp", "a.json"), ("chakra", "a")):
        out = tmp_path / name
        assert run([*base, "--to", to, "-o", str(out), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert len(said["files"]) == (4 if to == "chakra" else 1)
        check(read_schedule(said["files"][0]))
    assert run([*base, "--to", "msccl"]) == 0
    assert capsys.readouterr().out.startswith("<algo")
    assert run([*base, "--to", "nccl"]) == 2
    other = ["--to", "msccl", "--algorithm", "swong"]
    assert run([w for w in base if w not in ("--algorithm", "bucket")] + other) == 2
    assert run([*base, "--to", "msccl", "-o", str(tmp_path / "no" / "a.xml")]) == 2
