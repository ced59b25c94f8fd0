"""``weftline prepare``: text into tokens on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weftline.cli.answer import show
from weftline.cli.options import Format, Json


def prepare(
    *text: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    tokenizer: Path | None = None,
    vocab: int = 4096,
    processes: int | None = None,
    json: Json = False,
    form: Format = "table",
) -> int:
    """Tokenise TEXT into a folder that `weftline train --data` reads.

    Parameters
    ----------
    text
        Files and folders of text; `stdlib` is the source of Python's standard library.
    output
        Folder to write; a second run makes only what is missing.
    tokenizer
        A tokenizer.json or a folder with one; a new byte-level BPE is trained if not given.
    vocab
        Entries of a tokenizer that is trained.
    processes
        Processes that tokenise; one a core if not given.
    """
    import os

    from weftline.cli.progress import progress
    from weftline.errors import InputError
    from weftline.runtime.data.prepare import prepare as make

    if not text:
        raise InputError("say what text to read", where="prepare",
                         hint="`weftline prepare stdlib -o data`")  # fmt: skip
    done = make(
        text, output, tokenizer=tokenizer, vocab=vocab,
        processes=processes or len(os.sched_getaffinity(0)), progress=progress(),
    )  # fmt: skip
    show("prepared", done, lambda: (
        f"{done.tokens:,} tokens of {done.text_bytes / 1e6:.1f} MB of text in {done.shards} shards "
        f"({done.made} made now)\ntokenizer {done.tokenizer}, {done.vocab:,} entries\n"
        f"written: {done.folder}"
    ), json=json, form=form)  # fmt: skip
    return 0
