"""``weftline bench``: a server under load, measured from outside."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from weftline.cli.answer import show
from weftline.cli.options import Format, Json

if TYPE_CHECKING:
    from weftline.runtime.load.drive import Load
    from weftline.runtime.load.rows import ServedRow
    from weftline.runtime.server.timing import Forecast

app = App(name="bench", help="Measure a server under load, from outside.",
          help_format="plaintext")  # fmt: skip


@app.command
def serving(
    url: str = "http://127.0.0.1:8000",
    *,
    model: str | None = None,
    input: int = 256,  # noqa: A002  (the name of the option)
    output: int = 64,
    concurrency: int = 8,
    rate: float | None = None,
    trace: Path | None = None,
    requests: int = 40,
    read: Path | None = None,
    point: int | None = None,
    engine: Path | None = None,
    seed: int | None = None,
    out: Path | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Drive a server that speaks OpenAI's completions, or read what another harness measured.

    The key is taken from WEFTLINE_API_KEY.

    Parameters
    ----------
    url
        Of the server.
    model
        Its name there; asked for if not given.
    input
        Tokens of a prompt.
    output
        Tokens of an answer.
    concurrency
        Clients that each wait for their answer (a closed loop).
    rate
        Requests a second, as a Poisson stream (an open loop), in place of --concurrency.
    trace
        File of arrivals and lengths, in place of both: our own, Azure, BurstGPT, Mooncake.
    requests
        How many are sent.
    read
        Result of aiperf, vllm bench serve or guidellm: read in place of a run.
    point
        Which one, from 1, where that file holds several points of load.
    engine
        File of `weftline calibrate --engine own`: its forecast beside what is measured.
    seed
        Of prompts and arrivals. If not given, another each time, told in the row: prompts of a
        run before would be found in the server's prefix cache.
    out
        Folder to keep the row in, for `weftline compare`.
    """
    from weftline.errors import InputError
    from weftline.report.served import render_served
    from weftline.runtime.load.rows import read_row, write_row

    for name, value in (("--input", input), ("--output", output), ("--requests", requests),
                        ("--concurrency", concurrency)):  # fmt: skip
        if value < 1:
            raise InputError(f"{value} is below 1", where=name)
    if rate is not None and not rate > 0:
        raise InputError(f"{rate:g} requests a second are none", where="--rate")
    if read is not None:
        row = read_row(read, point)
    else:
        seed = secrets.randbits(32) if seed is None else seed
        closed = concurrency if rate is None and trace is None else None
        load = _load(trace, requests, input, output, closed, rate, seed)
        row = _driven(url, model, load, rate)
    forecast = _forecast(engine, row)
    if out is not None:
        write_row(row, out)
    data = {"measured": row, "forecast": forecast} if forecast else row
    show("served", data, lambda: render_served(row, forecast), json=json, form=form)
    return 0


def _load(
    trace: Path | None, requests: int, tokens: int, answer: int, closed: int | None,
    rate: float | None, seed: int,
) -> Load:  # fmt: skip
    """What is to be sent."""
    from weftline.runtime.load.drive import Load, planned

    if trace is None:
        return planned(requests=requests, input_tokens=tokens, output_tokens=answer, seed=seed,
                       concurrency=closed, rate_per_s=rate)  # fmt: skip
    from weftline.serve.simulate.trace_files import read_trace

    found = read_trace(trace)
    return Load(
        arrivals_s=[float(x) for x in found.arrived_s[:requests]],
        input_tokens=[int(n) for n in found.prefill_tokens[:requests]],
        output_tokens=[int(n) for n in found.decode_tokens[:requests]],
        concurrency=None, seed=seed,
    )  # fmt: skip


def _driven(url: str, model: str | None, load: Load, rate: float | None) -> ServedRow:
    """The server under that load."""
    from weftline.cli.status import status
    from weftline.runtime.load.client import target_of
    from weftline.runtime.load.drive import drive
    from weftline.runtime.load.rows import row_of
    from weftline.runtime.server.start import KEY_VARIABLE

    target = target_of(url, os.environ.get(KEY_VARIABLE), model)
    many = len(load.arrivals_s)
    answers = drive(target, load, say=lambda n: status.say(f"{n} of {many} answered"))
    for error in dict.fromkeys(a.error for a in answers if a.error):
        print(f"note: {error}", file=sys.stderr)
    return row_of(answers, model=target.model, concurrency=load.concurrency, rate_per_s=rate,
                  seed=load.seed)  # fmt: skip


def _forecast(engine: Path | None, row: ServedRow) -> Forecast | None:
    """What was to be expected of a closed loop."""
    if engine is None or not row.concurrency:
        return None
    from weftline.runtime.server.timing import forecast, read_steps

    return forecast(
        read_steps(engine), input_tokens=round(row.input_tokens),
        output_tokens=round(row.output_tokens), concurrency=int(row.concurrency),
        requests=row.requests,
    )  # fmt: skip
