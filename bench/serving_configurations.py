"""Configurations a second in the closed form, beside AIConfigurator where it is installed.

Run: ``python bench/serving_configurations.py [--peer PYTHON]``. PYTHON is the interpreter of an
environment of its own with ``aiconfigurator==0.12.0``; without it the rival's published figures
stand (25 configurations a CPU-second, 8 to 10 CPU-seconds a 32-GPU sweep). Times are CPU seconds of
one process, so that a busy machine does not change them much.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
from pathlib import Path

PEER = [
    "cli",
    "default",
    "--model-path",
    "meta-llama/Meta-Llama-3.1-70B",
    "--total-gpus",
    "32",
    "--system",
    "h200_sxm",
    "--isl",
    "4000",
    "--osl",
    "1000",
    "--ttft",
    "2000",
    "--tpot",
    "30",
]


def peer_cpu_s(python: str) -> float | str:
    """CPU seconds of the rival's sweep, its start included, or why it did not run."""
    program = Path(python).parent / "aiconfigurator"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([program, *PEER], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no output"])[-1]
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def closed_form(count: int) -> tuple[float, int]:
    """CPU seconds of ``count`` configurations: layouts, batches and lengths, one call."""
    import numpy as np

    from weftline.serve.calibrate.shipped import constants_for
    from weftline.serve.engine.closed_form import Load, compile_load, solve
    from weftline.serve.engine.config import ServingConfig
    from weftline.serve.engine.parts import setting_of

    config = ServingConfig(model="llama-3.1-70b", chip="h200", gemm_dtype="fp8", kv_dtype="fp8")
    setting = setting_of("llama-3.1-70b", "h200-sxm", "fp8", "fp8", "fp8")
    constants = constants_for(config)
    rng = np.random.default_rng(0)
    load = Load.of(
        input_tokens=rng.integers(100, 16000, count).astype(float),
        output_tokens=rng.integers(50, 4000, count).astype(float),
        concurrency=2.0 ** rng.uniform(0, 9, count), tp=2.0 ** rng.integers(0, 4, count),
        workers=rng.integers(1, 5, count).astype(float),
    )  # fmt: skip
    solve(compile_load(setting, load), constants)  # tables are read once
    start = time.process_time()
    answer = solve(compile_load(setting, load), constants)
    return time.process_time() - start, int(np.isfinite(answer.tpot_s).sum())


def sweep() -> tuple[float, int]:
    """CPU seconds of a 32-GPU 70B sweep: all layouts, aggregated and disaggregated, all batches."""
    import numpy as np

    from weftline.serve.calibrate.shipped import constants_for
    from weftline.serve.engine.closed_form import Load, compile_load, solve
    from weftline.serve.engine.config import PoolConfig, ServingConfig
    from weftline.serve.engine.parts import setting_of

    start = time.process_time()
    total, best = 0, 0.0
    batches = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512]
    for weights, kv in (("fp8", "fp8"), ("bf16", "bf16")):
        setting = setting_of("llama-3.1-70b", "h200-sxm", weights, weights, kv)
        for apart in (False, True):
            config = ServingConfig(
                model="llama-3.1-70b", chip="h200", engine="trtllm", gemm_dtype=weights,
                kv_dtype=kv, prefill=PoolConfig() if apart else None,
            )  # fmt: skip
            rows = [
                (tp, pp, batch, feeders, ptp)
                for tp, pp, batch in itertools.product((1, 2, 4, 8), (1, 2, 4), batches)
                for feeders, ptp in (
                    itertools.product((1, 2, 4, 8), (1, 2, 4, 8)) if apart else ((0, 1),)
                )
                if tp * pp <= 32 - feeders * ptp
            ]
            tp, pp, batch, feeders, ptp = np.array(rows, dtype=float).T
            workers = np.floor((32 - feeders * ptp) / (tp * pp))
            load = Load.of(
                input_tokens=4000.0, output_tokens=1000.0, concurrency=batch * workers, tp=tp,
                pp=pp, workers=workers, prefill_workers=feeders, prefill_tp=ptp,
            )  # fmt: skip
            answer = solve(compile_load(setting, load), constants_for(config))
            good = (answer.ttft_s < 2.0) & (answer.tpot_s < 0.03)
            total += len(rows)
            best = max(best, float((answer.output_tokens_per_s * good).max()))
    assert best > 0
    return time.process_time() - start, total


def main() -> None:
    """Print rates, ratios and cold start."""
    options = argparse.ArgumentParser()
    options.add_argument("--peer")
    options.add_argument("--count", type=int, default=100_000)
    given = options.parse_args()
    cpu, done = min(closed_form(given.count) for _ in range(3))
    rate = done / cpu
    print(f"closed form: {rate:,.0f} configurations a CPU-second ({rate / 25:,.0f} x the 25 quoted")
    print("             of AIConfigurator 0.12)")
    cpu, total = min(sweep() for _ in range(3))
    print(f"32-GPU 70B sweep: {cpu:.3f} CPU-s over {total} configurations (quoted: 8 to 10 CPU-s)")
    code = (
        "import time; t=time.perf_counter(); c=time.process_time()\n"
        "from weftline.serve import ServingConfig, surface\n"
        "surface(ServingConfig(model='llama-3.1-70b', chip='h200', tp=4)).step_s(0,0,8,8000)\n"
        "import sys; assert not {'numba','scipy','torch'} & set(sys.modules), 'heavy'\n"
        "print(time.process_time())"
    )
    cold = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    )
    print(f"cold start to the first step time: {cold:.2f} CPU-s")
    if given.peer:
        peer = peer_cpu_s(given.peer)
        if isinstance(peer, str):
            print(f"the peer did not run: {peer}")
        else:
            print(f"AIConfigurator's sweep here: {peer:.1f} CPU-s, {peer / cpu:,.0f} x ours")


if __name__ == "__main__":
    main()
