"""``weftline serve``: a model or a plan, served."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from weftline.runtime.server.options import EngineOptions, ServerOptions

if TYPE_CHECKING:
    from weftline.spec import ServePlan

KEPT_ENGINE = EngineOptions()
KEPT_SERVER = ServerOptions()
_UNMEASURED = "what this policy costs in quality is unmeasured: `weftline quality`"
"""What holds where nothing is said."""


def serve(
    model: Path,
    *,
    folder: Path | None = None,
    engine: Literal["auto", "own", "vllm"] = "auto",
    run: Annotated[EngineOptions, Parameter(name="*")] = KEPT_ENGINE,
    server: Annotated[ServerOptions, Parameter(name="*")] = KEPT_SERVER,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    policy_record: str | None = None,
) -> int:
    """Serve MODEL or a plan over HTTP, in the words of OpenAI's API.

    Parameters
    ----------
    model
        A Hugging Face folder, a .gguf file, or a plan of `weftline plan serve ... -o`.
    folder
        The weights, where MODEL is a plan.
    engine
        auto takes vLLM where it is installed and can, else the own engine.
    dry_run
        Say what would be started, and start nothing.
    policy_record
        Only with a signed decision that lets this plan go: record.json,public.pem.
    """
    from weftline.decide.policy import let_go
    from weftline.errors import InputError
    from weftline.launch.serving import engine_for, vllm_command

    if policy_record is not None and not (model.suffix == ".json" and model.is_file()):
        raise InputError("a decision is about a plan, not a folder", where="--policy-record",
                         hint="weftline plan serve ... -o plan.json")  # fmt: skip
    let_go(policy_record, model)
    plan = _plan(model)
    place = folder or (None if plan else model)
    if plan is not None:
        run = _of_plan(plan, run)
        if place is None and Path(plan.demand.model).is_dir():
            place = Path(plan.demand.model)
    chosen = engine_for(engine, run.policy)
    for line in _quality(plan, place, run.policy):
        print(f"note: {line}", file=sys.stderr)
    if chosen == "vllm":
        command, environment = vllm_command(plan, model, place, run, server)
        if dry_run:
            print(" ".join([*(f"{k}={v}" for k, v in environment.items()), *command]))
            return 0
        from weftline.launch.serving import become

        become(command, environment)
    if place is None:
        raise InputError("the plan names a model, not where its weights are", where=str(model),
                         hint="--folder DIR")  # fmt: skip
    if dry_run:
        print(f"the own engine over {place}: {run}")
        return 0
    from weftline.runtime.server.start import serve as start

    return start(place, run, server, lambda line: print(f"note: {line}", file=sys.stderr))


def _plan(path: Path) -> ServePlan | None:
    if path.suffix != ".json" or not path.is_file():
        return None
    from weftline.errors import InputError
    from weftline.spec import ServePlan
    from weftline.spec.serialize import read_any_plan

    found = read_any_plan(path)
    if not isinstance(found, ServePlan):
        raise InputError("this plan is for training", where=str(path), hint="weftline train")
    return found


def _of_plan(plan: ServePlan, run: EngineOptions) -> EngineOptions:
    """What the plan says, under what the user says."""
    from dataclasses import replace

    fleet = plan.fleet
    planned: dict[str, object] = {"max_sequences": fleet.max_batch,
                                  "chunk_tokens": fleet.chunk_tokens,
                                  "prefix_cache": fleet.prefix_cache}  # fmt: skip
    if fleet.kv in ("fp32", "bf16", "int8"):
        planned["kv"] = fleet.kv
    asked = {name: value for name, value in planned.items()
             if getattr(run, name) == getattr(KEPT_ENGINE, name)}  # fmt: skip
    return replace(run, **asked)  # type: ignore[arg-type]


def _quality(plan: ServePlan | None, place: Path | None, policy: str | None) -> tuple[str, ...]:
    """What is known of a policy's quality, beside the speed it is taken for."""
    if not policy:
        return ()
    from weftline.attention.quality import policy_remarks
    from weftline.errors import InputError
    from weftline.model.load import load_model

    config = None if place is None else place / "config.json"
    name = str(config) if config is not None and config.is_file() else (
        plan.demand.model if plan else ""
    )  # fmt: skip
    if not name:
        return (_UNMEASURED,)
    tokens = plan.demand.input_tokens if plan else 4096.0
    try:
        return policy_remarks(load_model(name), policy, context=tokens)
    except InputError:  # a model that the planner cannot count is served all the same
        return (_UNMEASURED,)
