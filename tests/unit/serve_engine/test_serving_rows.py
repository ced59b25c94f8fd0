"""Measured rows: what files mean, what they leave unsaid, and how malformed ones are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import weftline.serve
from weftline.errors import InputError
from weftline.serve.calibrate.names import family_of, model_name
from weftline.serve.calibrate.row import Row, Unanswered
from weftline.serve.calibrate.rows import read_rows, silicon_row
from weftline.serve.engine.launch_settings import DEFAULT
from weftline.serve.score_requests import read_requests

BASE = {
    "id": "a",
    "silicon_data_source": "db-dump/2026-04-27; silicon_concurrency=64; measured=2026-04",
    "backend": "vllm", "backend_version": "0.19.0", "model_path": "deepseek-ai/DeepSeek-R1",
    "system": "b200_sxm", "precision": "fp4", "mode": "agg", "isl": "1024", "osl": "1024",
    "gemm_quant_mode": "nvfp4", "moe_quant_mode": "nvfp4", "batch_size": "64", "tp_size": "8",
    "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "8", "moe_ep_size": "1",
    "silicon_ttft_ms": "100", "silicon_tpot_ms": "10",
}  # fmt: skip


def row(**changes: str) -> Row | Unanswered:
    return silicon_row({**BASE, **changes}, "rows.csv:2", 2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("64", "1", "8", "8"), (8, 1, 8)),  # TP 8, EP 8, multiplied
        (("1", "64", "8", "8"), (1, 8, 8)),  # the same with attention data parallelism
        (("4", "4", "1", "16"), (1, 4, 4)),  # data parallelism over TP's ranks
        (("8", "1", "8", "1"), (8, 1, 1)),
    ],
)
def test_layouts_written_as_products_are_read_as_what_ran(
    written: tuple[str, ...], meant: tuple[int, ...]
) -> None:
    found = row(
        tp_size=written[0], attention_dp_size=written[1], moe_tp_size=written[2],
        moe_ep_size=written[3],
    )  # fmt: skip
    assert isinstance(found, Row)
    assert (found.layout.tp, found.layout.dp, found.layout.ep) == meant
    assert found.chips in (4, 8)


def test_throughput_is_littles_law() -> None:
    found = row()
    assert isinstance(found, Row)
    each = 0.1 + (found.output_tokens - 1) * 0.01
    assert found.output_tokens_per_s == pytest.approx(64 * found.output_tokens / each / 8)
    assert found.derived


def test_rows_that_do_not_state_their_configuration_say_what_is_missing() -> None:
    pools = row(mode="disagg", prefill_num_workers="", decode_num_workers="")
    assert isinstance(pools, Unanswered)
    assert "workers" in pools.reason
    whole = row(tp_size="36", moe_tp_size="36")
    assert isinstance(whole, Unanswered)
    assert not whole.stated
    unknown = row(model_path="someone/unheard-of-9b")
    assert isinstance(unknown, Unanswered)
    assert unknown.stated


def test_sibling_names_are_one_family() -> None:
    names = ("deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-R1-NVFP4", "nvidia/DeepSeek-V3.1-NVFP4",
             "deepseek-ai/DeepSeek-V3", "DeepSeek-R1-0528")  # fmt: skip
    assert {family_of(model_name(n)) for n in names} == {"deepseek-v3"}
    assert model_name("Qwen/Qwen3-235B-A22B-FP8") == "qwen3-235b-a22b"
    assert model_name("meta-llama/Llama-3.1-70B") == "llama-3.1-70b"
    assert model_name("zhipuai/GLM-5") == "glm-5"


def test_malformed_files_name_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    cells = ",".join({**BASE, "silicon_ttft_ms": "fast"}.values())
    file.write_text(",".join(BASE) + "\n" + cells + "\n")
    rows, (left,) = read_rows(file)
    assert not rows
    assert re.search(r"rows.csv:2: column `silicon_ttft_ms` is not a number: `fast`", left.reason)
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="neither"):
        read_rows(other)
    requests = tmp_path / "requests.csv"
    requests.write_text("request_id,arrived_at,num_prefill_tokens,num_decode_tokens,queue_s,ttft_s,"
                        "e2e_s\nr,0,soon,1,0,0,0\n")  # fmt: skip
    with pytest.raises(InputError, match="num_prefill_tokens"):
        read_requests(requests)


@pytest.mark.parametrize(
    ("changes", "poll", "gather", "tokens"),
    [
        ({"backend": "sglang", "batch_size": "16"}, 10, 0, None),  # concurrency 8: every 10th step
        ({"backend": "sglang"}, 30, 0, None),
        ({"backend": "sglang", "system": "h200_sxm"}, 0, 0, 8192),  # its script does not poll
        ({"backend": "trtllm", "attention_dp_size": "8", "tp_size": "8", "moe_tp_size": "1",
          "moe_ep_size": "8"}, 0, 60, None),
        ({"backend": "trtllm", "backend_version": "1.1.0rc2.post2"}, 0, 0, 1024 + 64),
        ({"backend": "trtllm", "backend_version": "1.2.0rc6.post2"}, 0, 0, 8192),
        ({"backend": "vllm"}, 0, 0, 8192),
    ],
)  # fmt: skip
def test_prompts_are_held_back_where_the_launch_scripts_say_so(
    changes: dict[str, str], poll: int, gather: int, tokens: int | None
) -> None:
    source = "db-dump/2026-04-27; silicon_concurrency=8; measured=2026-04"
    found = row(**changes, **({"silicon_data_source": source} if poll == 10 else {}))
    assert isinstance(found, Row)
    assert (found.launch.poll_steps, found.launch.gather_steps) == (poll, gather)
    assert tokens is None or found.launch.iteration_tokens == tokens
    other = row(**changes, silicon_data_source="somewhere else; silicon_concurrency=64")
    assert isinstance(other, Row)
    assert other.launch == DEFAULT


@pytest.mark.parametrize(
    ("changes", "cache", "fused"),
    [
        ({"backend": "trtllm", "model_path": "openai/gpt-oss-120b", "system": "h200_sxm"},
         "bf16", False),
        ({"backend": "trtllm", "model_path": "openai/gpt-oss-120b"}, "fp8", False),
        ({"backend": "vllm", "model_path": "MiniMaxAI/MiniMax-M2.5", "system": "h100_sxm",
          "precision": "fp8", "gemm_quant_mode": "fp8_block", "moe_quant_mode": "fp8_block"},
         "bf16", False),
        ({"backend": "vllm", "model_path": "MiniMaxAI/MiniMax-M2.5"}, "fp8", True),
        ({"backend": "sglang"}, "fp8", True),
    ],
)  # fmt: skip
def test_caches_and_joined_kernels_are_as_the_launch_scripts_leave_them(
    changes: dict[str, str], cache: str, fused: bool
) -> None:
    found = row(**changes)
    assert isinstance(found, Row)
    assert (found.kv_dtype, found.launch.fused) == (cache, fused)


def test_token_positions_were_served_as_their_scripts_say() -> None:
    """The checkpoint named is in bf16 where the table says fp8; GLM-5 drafts a token."""
    file = Path(weftline.serve.__file__).parent / "data" / "serving_published.csv.gz"
    own = {r.model: r for r in read_rows(file)[0] if r.harness == "inferencex-positions"}
    assert {m: (r.gemm_dtype, r.kv_dtype, r.drafted) for m, r in own.items()} == {
        "qwen3.5-397b-a17b": ("bf16", "bf16", 0), "glm-5": ("fp8_block", "bf16", 1),
    }  # fmt: skip


def test_what_the_dump_lacks_of_a_doubled_run_is_its_speculative_half(tmp_path: Path) -> None:
    """Two measurements of one layout: the dump leaves speculative runs out, so it holds one."""
    shape = {"backend": "sglang", "backend_version": "0.5.9", "precision": "fp8",
             "model_path": "deepseek-ai/DeepSeek-R1-0528", "gemm_quant_mode": "fp8",
             "moe_quant_mode": "fp8_block", "tp_size": "8", "moe_tp_size": "8", "moe_ep_size": "1",
             "attention_dp_size": "1"}  # fmt: skip
    dated = "x; source_file=a/2026-04-06.csv; silicon_concurrency=8; measured=2026-03"
    rows = [
        {**BASE, **shape, "silicon_data_source": source, "silicon_tpot_ms": tpot}
        for source, tpot in (
            ("db-dump/2026-04-27; silicon_concurrency=8", "10.804"),
            (dated, "10.80"),
            (dated, "8.8"),
        )
    ]  # fmt: skip
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(",".join(r) for r in [BASE, *(r.values() for r in rows)]) + "\n")
    assert [r.drafted for r in read_rows(file)[0]] == [0, 0, 2]
