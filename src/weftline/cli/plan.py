"""``weftline plan``: the best way to do a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from weftline.cli.options import Json
from weftline.cli.plan_serve import serve

if TYPE_CHECKING:
    from weftline.spec import Job

app = App(name="plan", help="Find the best plan for a job.", help_format="plaintext")
app.command(serve)


@app.command
def train(
    model: str,
    *,
    tokens: str,
    seq: str | None = None,
    global_batch: str | None = None,
    on: str = "all",
    chips: str | None = None,
    max_chips: str | None = None,
    budget: str | None = None,
    deadline: str | None = None,
    price: str = "on-demand",
    region: str | None = None,
    objective: str = "cost-time",
    precision: str = "bf16",
    framework: str = "auto",
    optimizer: str = "adamw",
    offload: bool = False,
    overlap: bool = True,
    json: Json = False,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the plan to this file.")
    ] = None,
) -> int:
    """Chip, count, parallelism, time and price to train MODEL.

    Parameters
    ----------
    model
        Bundled name, config.json, or gpt:layers=96,hidden=12288,...
    tokens
        Tokens of the whole run: 2T, 300B.
    seq
        Tokens a sequence; 8192 or the model's limit if not given.
    global_batch
        Sequences a step; by model size if not given.
    on
        Accelerators, separated by commas, or all.
    chips
        Exactly so many chips.
    max_chips
        At most so many chips; 1024 if neither is given.
    budget
        Most the run may cost: $2.5M.
    deadline
        Longest it may take: 30days.
    price
        on-demand, spot, reserved, capacity-block, or your own: $2.50/h a chip.
    region
        Only prices of this region.
    objective
        cost, time, energy, or cost-time (their product).
    precision
        Of the matrix products: bf16, fp8, fp4, fp32.
    framework
        megatron-core, torchtitan, maxtext, neuronx... or auto: each maker's own.
    optimizer
        adamw, adamw-bf16, adafactor or muon.
    offload
        Keep optimizer states in host memory.
    overlap
        Hide communication behind compute where the framework can.
    """
    from weftline.cli.progress import progress
    from weftline.plan import plan_train
    from weftline.report.plan import render_plan
    from weftline.spec.serialize import plan_to_json, write_plan

    job, own_price = _job(
        model=model, tokens=tokens, seq=seq, global_batch=global_batch, on=on, chips=chips,
        max_chips=max_chips, budget=budget, deadline=deadline, price=price, region=region,
        objective=objective, precision=precision, framework=framework,
        optimizer=optimizer, offload=offload, overlap=overlap,
    )  # fmt: skip
    plan = plan_train(job, usd_per_chip_hour=own_price, progress=progress())
    if output is not None:
        write_plan(plan, output)
        print(f"plan written to {output}", file=sys.stderr)
    print(plan_to_json(plan) if json else render_plan(plan))
    return 0


def _job(
    *, model: str, tokens: str, seq: str | None, global_batch: str | None, on: str,
    chips: str | None, max_chips: str | None, budget: str | None, deadline: str | None,
    price: str, region: str | None, objective: str, precision: str, framework: str,
    optimizer: str, offload: bool, overlap: bool,
) -> tuple[Job, float | None]:  # fmt: skip
    """The options as a Job and the user's own price. Raises all mistakes at once."""
    from weftline.catalog.asked import check_region, parse_accelerators
    from weftline.model import load_model
    from weftline.plan import default_batch
    from weftline.spec import OBJECTIVES, PRECISIONS, Job
    from weftline.spec.parse import Collector, choice, parse_price
    from weftline.units import parse_count, parse_duration_s, parse_usd

    get = Collector()
    loaded = get(lambda: load_model(model))
    token_count = get(lambda: parse_count(tokens, where="--tokens", what="a token count"))
    seq_len = get(lambda: None if seq is None else parse_count(seq, where="--seq"))
    batch = get(lambda: None if global_batch is None
                else parse_count(global_batch, where="--global-batch"))  # fmt: skip
    chip_count = get(lambda: None if chips is None else parse_count(chips, where="--chips"))
    chip_limit = get(lambda: None if max_chips is None
                     else parse_count(max_chips, where="--max-chips"))  # fmt: skip
    money = get(lambda: None if budget is None else parse_usd(budget, where="--budget"))
    limit = get(
        lambda: None if deadline is None else parse_duration_s(deadline, where="--deadline")
    )
    mine, price_type = get(lambda: parse_price(price)) or (None, None)
    get(lambda: check_region(region))
    wanted = get(lambda: choice(objective, OBJECTIVES, "objective", where="--objective"))
    numbers = get(lambda: choice(precision, PRECISIONS, "precision", where="--precision"))
    names = get(lambda: parse_accelerators(on))
    frame = get(lambda: _framework(framework))
    states = get(lambda: _optimizer(optimizer))
    get.raise_all()
    if loaded is None or token_count is None:
        raise AssertionError("the collector raises before this")
    length = seq_len or min(loaded.max_seq_len or 8192, 8192)
    job = Job(
        model=model, tokens=token_count, seq_len=length,
        global_batch=batch or default_batch(loaded, length), accelerators=names or (),
        chips=chip_count, max_chips=chip_limit, budget_usd=money, deadline_s=limit,
        price_type=price_type or "on-demand", region=region, objective=wanted or "cost-time",
        precision=numbers or "bf16", framework=frame or framework,
        optimizer=states or optimizer, offload=offload, overlap=overlap,
    )  # fmt: skip
    return job, mine


def _framework(name: str) -> str:
    from weftline.plan.step.frameworks import AUTO, FRAMEWORKS
    from weftline.spec.parse import choice

    return choice(name, (AUTO, *FRAMEWORKS), "framework", where="--framework")


def _optimizer(name: str) -> str:
    from weftline.plan.step.frameworks import OPTIMIZERS
    from weftline.spec.parse import choice

    return choice(name, tuple(OPTIMIZERS), "optimizer", where="--optimizer")
