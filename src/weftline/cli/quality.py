"""``weftline quality``: what attention policies cost in quality, beside what they save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def quality(
    model: Path,
    *,
    policy: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    tokens: str = "2048",
    documents: int = 2,
    seeds: int = 1,
    seed: int = 0,
    speed_tokens: str = "4096",
    times: Path | None = None,
    keep: bool = True,
    json: Json = False,
    form: Format = "table",
) -> int:
    """What attention policies cost in quality: perplexity, facts found, answers that change.

    Parameters
    ----------
    model
        Folder of a model as transformers saves it, with its tokenizer.
    policy
        A policy, beside full attention; may be given several times. Eight common ones if not given.
    tokens
        Tokens of one text.
    documents
        Texts of different prose.
    seeds
        Codes and questions drawn for each of them.
    seed
        The first of the seeds.
    speed_tokens
        Prompts that are timed under each policy, predicted beside measured; 0 times nothing.
    times
        In the place of that, prompts that another engine was timed with (rows of
        bench/vllm_policies.py).
    keep
        Keep the rows, so that plans under these policies quote them.
    """
    from dataclasses import asdict

    from weftline.attention.quality import keep_rows
    from weftline.attention.speeds import read_times, with_speeds
    from weftline.cli.status import status
    from weftline.errors import InputError
    from weftline.report.quality import quality_markdown, render_quality
    from weftline.spec.attention_text import COMMON, parse_policy
    from weftline.spec.parse import Collector
    from weftline.units import parse_count

    get = Collector("--policy")
    for text in policy:
        get(lambda t=text: parse_policy(t))  # type: ignore[misc]
    count = get(lambda: parse_count(tokens, where="--tokens"))
    for name, value in (("--documents", documents), ("--seeds", seeds)):
        if value < 1:
            get.errors.append(InputError("must be at least 1", where=name))
    if count is not None and count < 1024:
        get.errors.append(InputError("at least 1,024 tokens are needed for prose and questions",
                                     where="--tokens"))  # fmt: skip
    prompt = 0 if speed_tokens.strip() == "0" else get(
        lambda: parse_count(speed_tokens, where="--speed-tokens"))  # fmt: skip
    timed = None if times is None else get(lambda: read_times(times))
    get.raise_all()
    from weftline.runtime.quality import Question, loaded, measured, timed_here

    question = Question(
        model=model, policies=policy or COMMON, tokens=count or 0, documents=documents, seeds=seeds,
        seed=seed,
    )  # fmt: skip
    ready = loaded(model)
    rows = measured(question, status.say, ready)
    if timed is None and prompt:
        policies = [parse_policy(row.policy) for row in rows]
        timed = timed_here(ready[0], policies, int(prompt), status.say)
    if timed is not None:
        rows = with_speeds(rows, timed)
    if keep:
        keep_rows(rows)
    if form == "markdown" and not json:
        print(quality_markdown(rows))
        return 0
    show(
        "quality", [asdict(row) for row in rows], lambda: render_quality(rows), json=json, form=form
    )
    return 0
