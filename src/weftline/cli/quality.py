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
    times
        Prompts timed by an engine (rows of bench/vllm_policies.py): adds predicted and measured
        speed.
    keep
        Keep the rows, so that plans under these policies quote them.
    """
    from dataclasses import asdict

    from weftline.attention.quality import keep_rows
    from weftline.attention.speeds import with_speeds
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
    get.raise_all()
    from weftline.runtime.quality import Question, measured

    question = Question(
        model=model, policies=policy or COMMON, tokens=count or 0, documents=documents, seeds=seeds,
        seed=seed,
    )  # fmt: skip
    rows = measured(question, progress=status.say)
    if times is not None:
        rows = with_speeds(rows, times)
    if keep:
        keep_rows(rows)
    if form == "markdown" and not json:
        print(quality_markdown(rows))
        return 0
    show(
        "quality", [asdict(row) for row in rows], lambda: render_quality(rows), json=json, form=form
    )
    return 0
