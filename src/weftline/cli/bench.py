"""``weftline bench``: a server under load, measured from outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cyclopts import App

from weftline.cli.answer import show
from weftline.cli.options import Format, Json

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
    engine: Path | None = None,
    seed: int = 0,
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
    engine
        File of `weftline calibrate --engine own`: its forecast beside what is measured.
    seed
        Of prompts and arrivals.
    out
        Folder to keep the row in, for `weftline compare`.
    """
    from weftline.errors import InputError
    from weftline.report.served import render_served
    from weftline.runtime.load.rows import read_row, row_of, write_row
    from weftline.runtime.server.start import KEY_VARIABLE

    for name, value in (("--input", input), ("--output", output), ("--requests", requests),
                        ("--concurrency", concurrency)):  # fmt: skip
        if value < 1:
            raise InputError(f"{value} is below 1", where=name)
    if rate is not None and not rate > 0:
        raise InputError(f"{rate:g} requests a second are none", where="--rate")
    if read is not None:
        row = read_row(read)
    else:
        from weftline.cli.status import status
        from weftline.runtime.load.client import target_of
        from weftline.runtime.load.drive import Load, drive, planned

        closed = concurrency if rate is None and trace is None else None
        if trace is not None:
            from weftline.serve.simulate.trace_files import read_trace

            t = read_trace(trace)
            load = Load(arrivals_s=[float(x) for x in t.arrived_s[:requests]],
                        input_tokens=[int(n) for n in t.prefill_tokens[:requests]],
                        output_tokens=[int(n) for n in t.decode_tokens[:requests]],
                        concurrency=None, seed=seed)  # fmt: skip
        else:
            load = planned(requests=requests, input_tokens=input, output_tokens=output, seed=seed,
                           concurrency=closed, rate_per_s=rate)  # fmt: skip
        target = target_of(url, os.environ.get(KEY_VARIABLE), model)
        many = len(load.arrivals_s)
        answers = drive(target, load, say=lambda n: status.say(f"{n} of {many} answered"))
        row = row_of(answers, model=target.model, concurrency=closed, rate_per_s=rate, seed=seed)
        for error in dict.fromkeys(a.error for a in answers if a.error):
            print(f"note: {error}", file=sys.stderr)
    forecast = None
    if engine is not None and row.concurrency:
        from weftline.runtime.server.timing import forecast as foretell
        from weftline.runtime.server.timing import read_steps

        forecast = foretell(
            read_steps(engine), input_tokens=round(row.input_tokens),
            output_tokens=round(row.output_tokens), concurrency=int(row.concurrency),
            requests=row.requests,
        )  # fmt: skip
    if out is not None:
        write_row(row, out)
    data = {"measured": row, "forecast": forecast} if forecast else row
    show(data, lambda: render_served(row, forecast), json=json, form=form)
    return 0
