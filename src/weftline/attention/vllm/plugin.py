"""The entry point ``vllm.general_plugins``, and where the policy comes from.

The policy stands in ``--additional-config '{"attention_policy": "window=512,sinks=4"}'``, else in
the environment variable WEFTLINE_ATTENTION_POLICY; both take the text of a policy or the name of a
file. Without either vLLM runs as if this plugin were not there. Layers that the model was trained
to limit (windows) keep their own rule.

vLLM's CPU platform has one backend and ignores a custom one, so that is overridden there. On CUDA
the backend is called CUSTOM and asked for with ``--attention-backend CUSTOM``.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from typing import Any

from weftline.errors import InputError
from weftline.spec.attention import DENSE, AttentionPolicy, Compress, Rule
from weftline.spec.attention_text import POLICY_FIELD, POLICY_VARIABLE, parse_policy

__all__ = ["asked_policy", "layer_rules", "register", "served"]


def register() -> None:
    """Called by vLLM in each of its processes, before a model is built."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    home = __name__.rpartition(".")[0]
    register_backend(AttentionBackendEnum.CPU_ATTN, f"{home}.cpu.CpuBackend")
    register_backend(AttentionBackendEnum.CUSTOM, f"{home}.cuda.CudaBackend")


def asked_policy(config: Any) -> AttentionPolicy | None:
    """The policy of an engine's ``VllmConfig``, else of the environment; None where there is none.

    Raises InputError for what is no policy, or none that vLLM can serve.
    """
    given = getattr(config, "additional_config", None)
    text = given.get(POLICY_FIELD) if isinstance(given, dict) else None
    where = f"--additional-config {POLICY_FIELD}" if text else POLICY_VARIABLE
    text = text or os.environ.get(POLICY_VARIABLE)
    return served(str(text), where) if text else None


@lru_cache(maxsize=8)
def served(text: str, where: str) -> AttentionPolicy | None:
    """The policy that ``text`` says, checked for what vLLM can serve; None for a dense one."""
    policy = parse_policy(text, where=where)
    if policy.kv == "free":
        raise InputError(
            "vLLM decides itself which pages it frees: a plugin only chooses what is read",
            where=where, hint="kv=keep, or `weftline serve --engine own`",
        )  # fmt: skip
    if any(isinstance(rule, Compress) for rule in policy.rules):
        raise InputError("merged entries need a model trained with them", where=where)
    if any(rule.selects and rule.selects.score == "indexer" for rule in policy.rules):
        raise InputError("an indexer needs trained weights, which a dense model has not",
                         where=where, hint="score=minmax or score=mean")  # fmt: skip
    if policy.is_dense:
        return None
    logging.getLogger("vllm.weftline").info("attention policy %s, from %s", text, where)
    return policy


def layer_rules(policy: AttentionPolicy | None, layer: int) -> tuple[Rule, Rule]:
    """(prefill, decode) of a layer; None: it stays as it is."""
    if policy is None:
        return DENSE, DENSE
    return policy.rule(layer, "prefill"), policy.rule(layer, "decode")
