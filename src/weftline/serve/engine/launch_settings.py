"""Launch settings of public benchmark sweeps that no column of the silicon rows states.

Read from InferenceX (github.com/SemiAnalysisAI/InferenceX, Apache-2.0), ``benchmarks`` and
``benchmarks/single_node``, as of 2025-10 to 2026-04; never fitted. The scripts have versions and a
row does not say which one ran: engine versions and dates decide where two are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["DEFAULT", "Launch", "launch_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a server was started, as far as it decides when prompts run."""

    poll_steps: int = 0
    """Decode iterations between two looks for new requests."""
    gather_steps: int = 0
    """Decode iterations a prompt is held back for others at most."""
    iteration_tokens: int = 8192
    """Tokens of one iteration at most, for prompts (``max_num_batched_tokens`` and its kin)."""
    captured: bool = False
    """Whether prefills replay captured pieces (piecewise CUDA graphs) where engines do not."""
    triton: bool = False
    """Whether routing and experts are Triton kernels where the engine has calls of its own."""
    eager: bool = False
    """Whether decoding replays no captured graph."""
    fused: bool = False
    """Whether an all-reduce and the norm after it are one kernel where engines have two."""
    cache: str = ""
    """Number format of the cache as the script leaves it; empty where it follows the weights'."""
    waves: int = 0
    """Requests the client sends for each one in flight; 0 where that is not known."""


DEFAULT: Final = Launch()
"""Of rows whose scripts are not public, and of configurations that are planned."""
_WAVES: Final = 10
_LONG: Final = 8192
_SHORT: Final = 1024


def launch_of(
    record: Mapping[str, str], *, tp: int, dp: int, concurrency: float, drafted: int, version: str
) -> Launch:
    """The settings of a row of the public sweep; ``record`` has its columns."""
    make = {"sglang": _sglang, "trtllm": _tensorrt_llm, "vllm": _vllm}.get(record["backend"])
    if make is None:
        return DEFAULT
    found = make(record, tp, dp, concurrency, drafted, version)
    return found if found.waves else replace(found, waves=_WAVES)


def _sglang(
    record: Mapping[str, str], tp: int, dp: int, concurrency: float, drafted: int, version: str
) -> Launch:
    """``--scheduler-recv-interval``, ``--chunked-prefill-size`` and ``--max-prefill-tokens``."""
    del dp, version
    model, system = record["model_path"].lower(), record["system"]
    half = record["precision"] in ("fp4", "nvfp4")
    poll = 30 if concurrency >= 16 else 10
    if not system.startswith(("b200", "b300")):
        own = "glm-5" in model
        return Launch(waves=5 if own else _WAVES, cache="bf16" if own else "")
    if "glm-5" in model:
        return Launch(iteration_tokens=32768, fused=True)
    if "qwen3.5" in model:
        fused = record["precision"] == "bf16"
        if system == "b300_sxm":
            return Launch(poll_steps=10, iteration_tokens=16384, fused=fused)
        return Launch(poll_steps=30 if half else poll, iteration_tokens=32768, fused=fused)
    if "deepseek" in model:
        poll = 10 if system == "b300_sxm" else poll
        whole = 16384 if half or drafted else 32768 if tp == _NODE else 8192
        return Launch(poll_steps=poll, iteration_tokens=whole, fused=True)
    return DEFAULT


def _vllm(
    record: Mapping[str, str], tp: int, dp: int, concurrency: float, drafted: int, version: str
) -> Launch:
    """``max-cudagraph-capture-size`` (512 tokens by default, 2,048 for gpt-oss), ``fuse_allreduce
    _rms``, ``kv-cache-dtype``."""
    del tp, dp, drafted, version
    model, hopper = record["model_path"].lower(), record["system"].startswith("h")
    short = float(record["isl"]) + concurrency <= _CAPTURE_TOKENS
    # On Hopper the scripts leave the cache to the checkpoint, and these checkpoints say nothing.
    plain = hopper and ("gpt-oss" in model or "minimax" in model)
    return Launch(captured="gpt-oss" in model and short, fused=not hopper,
                  cache="bf16" if plain else "")  # fmt: skip


_CAPTURE_TOKENS: Final = 2048


def _tensorrt_llm(
    record: Mapping[str, str], tp: int, dp: int, concurrency: float, drafted: int, version: str
) -> Launch:
    """``max_num_tokens``, ``batch_wait_timeout_iters``, ``attention_dp_config``, piecewise."""
    model, system = record["model_path"].lower(), record["system"]
    lengths = int(float(record["isl"])), int(float(record["osl"]))
    if "gpt-oss" in model:
        gather = 50 if dp > 1 and system.startswith("b") else 0
        triton = system.startswith("h")  # moe_config: backend: TRITON; kv_cache_config: auto
        return Launch(gather_steps=gather, iteration_tokens=20000, triton=triton,
                      cache="bf16" if triton else "")  # fmt: skip
    if "llama" in model:
        held = 20 if lengths == (_SHORT, _SHORT) and tp < _NODE else 0
        return Launch(gather_steps=held, iteration_tokens=sum(lengths) + 200)
    if "deepseek" not in model:
        return DEFAULT
    late = version.startswith("1.2.0rc6")  # the scripts of early 2026
    # One prompt beside what decodes, until the later scripts gave short prompts 8192 tokens.
    tokens = lengths[0] + 64
    if late and not drafted:
        tokens = max(tokens, 8192)
    gather = 60 if dp > 1 else 0
    if system != "b200_sxm" or not late:
        return Launch(gather_steps=gather, iteration_tokens=tokens)
    captured = _captured(record, lengths, tp, dp, concurrency, drafted)
    blocked = record["precision"] == "fp8"
    if blocked and not drafted and lengths == (_SHORT, _SHORT) and concurrency >= _CROWD:
        gather = max(gather, 40)
    return Launch(gather_steps=gather, iteration_tokens=tokens, captured=captured)


_NODE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a script serves where a published table's columns do not say it, or say otherwise."""

    weights: str = ""
    """Number format of the checkpoint; empty where the table's is right."""
    cache: str = ""
    drafted: int = 0


TOKEN_POSITIONS: Final[Mapping[str, Served]] = {
    "qwen3.5-397b-a17b": Served(weights="bf16", cache="bf16"),
    "glm-5": Served(cache="bf16", drafted=1),
}
"""``experimental/token_position_decode_slo/*/serve_*.sh``: the checkpoint named is the one in bf16
(the table says fp8), and GLM-5 drafts one token; neither sets the cache's format."""
_CROWD: Final = 64


def _captured(
    record: Mapping[str, str], lengths: tuple[int, int], tp: int, dp: int, concurrency: float,
    drafted: int,
) -> bool:  # fmt: skip
    """Where the scripts of early 2026 turn piecewise CUDA graphs on for DeepSeek on B200."""
    if record["precision"] == "fp8" and drafted:
        least = {(_SHORT, _SHORT): 4, (_SHORT, _LONG): 8, (_LONG, _SHORT): 16}.get(lengths, 0)
        return dp == 1 and concurrency > least
    if record["precision"] == "fp8":
        from_ = {(_SHORT, _SHORT): 64, (_SHORT, _LONG): 128, (_LONG, _SHORT): 64}
        most = 256 if lengths == (_SHORT, _LONG) else float("inf")
        return from_.get(lengths, float("inf")) <= concurrency < most
    if drafted:
        some = {(_SHORT, _SHORT): (32, 64) if dp > 1 else (32, 64, 128), (_SHORT, _LONG): (64,)}
        return concurrency in some.get(lengths, ())
    ranks = int(float(record.get("moe_ep_size") or 1))
    return lengths == (_SHORT, _SHORT) and tp * dp == _NODE and ranks == _NODE
