"""Which engine serves here, and vLLM's command with our plugin and what the plan says."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from weftline.errors import InputError
from weftline.launch.nouns import Ask
from weftline.launch.targets.engines.vllm import flags_of
from weftline.runtime.server.engine.adapters import beside, rank_of
from weftline.runtime.server.options import EngineOptions, ServerOptions
from weftline.runtime.server.start import KEY_VARIABLE
from weftline.spec import ServePlan
from weftline.spec.attention_text import parse_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["become", "engine_for", "vllm_command"]

POLICY_VARIABLE = "WEFTLINE_ATTENTION_POLICY"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes (vllm 0.32.0, vllm/config/lora.py)."""


def engine_for(asked: Literal["auto", "own", "vllm"], policy: str | None) -> str:
    """vLLM where it is installed and can serve the policy, else the own engine; as asked else.

    Raises InputError for vLLM where it is not installed, or where it cannot.
    """
    frees = policy is not None and parse_policy(policy).kv == "free"
    there = find_spec("vllm") is not None and shutil.which("vllm") is not None
    if asked == "vllm":
        if not there:
            raise InputError("vLLM is not installed here", where="--engine",
                             hint="pip install vllm, or --engine own")  # fmt: skip
        if frees:
            raise InputError("vLLM decides itself which pages it frees", where="--policy",
                             hint="kv=keep, or --engine own")  # fmt: skip
    return asked if asked != "auto" else "vllm" if there and not frees else "own"


def vllm_command(
    plan: ServePlan | None, model: Path, place: Path | None, run: EngineOptions,
    server: ServerOptions,
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """The words that start vLLM, and the variables of its environment beside ours."""
    name = str(place) if place is not None else plan.demand.model if plan else str(model)
    adapter = run.adapter
    if adapter is None and place is not None and (base := beside(place)) is not None:
        name, adapter = str(base), place
    words = ["vllm", "serve", name, "--host", server.host, "--port", str(server.port)]
    if server.name and adapter is None:
        words += ["--served-model-name", server.name]
    if run.max_len:
        words += ["--max-model-len", str(run.max_len)]
    if run.dtype != "auto":
        words += ["--dtype", {"fp32": "float32", "bf16": "bfloat16"}[run.dtype]]
    if plan is not None:
        flags, _ = flags_of(Ask(plan=plan, text="", name="serve"), dict(plan.fleet.layout))
        words += [word for flag in flags for word in flag]
    else:
        words += ["--max-num-seqs", str(run.max_sequences),
                  "--max-num-batched-tokens", str(run.chunk_tokens)]  # fmt: skip
        words.append(f"--{'' if run.prefix_cache else 'no-'}enable-prefix-caching")
    if adapter is not None:
        # vLLM keeps the base's own name beside it, and answers under both.
        called = server.name or adapter.resolve().stem
        words += ["--enable-lora", "--lora-modules", f"{called}={adapter}",
                  "--max-lora-rank", str(_rank_taken(adapter))]  # fmt: skip
    variables: dict[str, str] = {}
    if run.policy:
        variables[POLICY_VARIABLE] = run.policy
    key = server.api_key_file
    if key is not None or os.environ.get(KEY_VARIABLE):
        variables["VLLM_API_KEY"] = f"$(cat {key})" if key is not None else f"${KEY_VARIABLE}"
    return words, variables


def _rank_taken(adapter: Path) -> int:
    """The smallest rank that vLLM has room for and that holds these."""
    rank = rank_of(adapter)
    return next((taken for taken in _RANKS if taken >= rank), rank)


def become(words: list[str], environment: Mapping[str, str]) -> NoReturn:
    """Turn this process into the engine. Raises InputError where a key cannot be read."""
    made = dict(os.environ) | dict(environment)
    said = made.get("VLLM_API_KEY", "")
    if said.startswith("$(cat "):
        try:
            made["VLLM_API_KEY"] = Path(said[6:-1]).read_text(encoding="utf-8").strip()
        except OSError:
            raise InputError("cannot be read", where=said[6:-1]) from None
    elif said.startswith("$"):
        made["VLLM_API_KEY"] = os.environ[said[1:]]
    os.execvpe(words[0], words, made)  # noqa: S606  (no shell)
