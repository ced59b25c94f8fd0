"""Tokenise text and write it as shards: many processes, resumable, whole or not there.

A shard is written under another name, flushed and renamed; a note beside it says what it was made
of. So a second run makes only what is missing, and the index, which alone makes the folder usable,
is the last thing written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from weftline.errors import InputError
from weftline.runtime.data.corpus import Piece, pieces_of
from weftline.runtime.data.shards import INDEX_FILE, INDEX_FORMAT
from weftline.spec.serialize import write_text

__all__ = ["TOKENIZER_FILE", "Prepared", "prepare"]

TOKENIZER_FILE: Final = "tokenizer.json"
END: Final = "<|end|>"
_ENDS: Final = (END, "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "</s>", "<eos>", "[SEP]")
"""What a tokenizer may call the end of a document; the first that it has is taken."""
_TRAIN_BYTES: Final = 2 << 20
"""Text that a new tokenizer is trained on, taken evenly over all there is."""
_ALPHABET: Final = 256
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was made."""

    folder: str
    tokens: int
    vocab: int
    shards: int
    made: int
    """Shards made now; the others were there already."""
    text_bytes: int
    tokenizer: str
    """``trained`` or the file it was read from."""


@dataclass(frozen=True, slots=True)
class _Task:
    number: int
    pieces: tuple[Piece, ...]
    key: str
    """Of its pieces, their sizes and times, and the tokenizer."""


def prepare(
    sources: Sequence[str], folder: Path, *, tokenizer: Path | None = None, vocab: int = 4096,
    processes: int = 1, shard_bytes: int = 8 << 20, progress: Progress | None = None,
) -> Prepared:  # fmt: skip
    """Make ``folder`` of the text of ``sources``. Raises InputError; then no index is written."""
    if vocab <= _ALPHABET:
        raise InputError(f"{vocab} is too few: the bytes alone are {_ALPHABET}", where="--vocab")
    _tokenizers()
    pieces = pieces_of(sources, without=folder)
    said = progress or (lambda _name, _share: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write there: {error.strerror}", where=str(folder)) from None
    said("tokenizer", 0.0)
    path = folder / TOKENIZER_FILE
    _place_tokenizer(tokenizer, path, pieces, vocab)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = _tokenizers().Tokenizer.from_file(str(path)).get_vocab_size()
    dtype = "uint16" if size <= 1 << 16 else "uint32"
    tasks = _tasks(pieces, digest, shard_bytes)
    todo = [t for t in tasks if _note(folder, t) is None]
    for done, _ in enumerate(_made(todo, folder, path, dtype, processes), 1):
        said(f"shard {done} of {len(todo)}", done / len(todo))
    rows = [_note(folder, task) for task in tasks]
    index = {
        "format": INDEX_FORMAT, "dtype": dtype, "vocab": size, "tokenizer": TOKENIZER_FILE,
        "tokenizer_sha256": digest, "tokens": sum(row["tokens"] for row in rows if row),
        "shards": [row and {k: v for k, v in row.items() if k != "key"} for row in rows],
    }  # fmt: skip
    write_text(json.dumps(index, indent=1) + "\n", folder / INDEX_FILE)
    return Prepared(
        folder=str(folder), tokens=int(index["tokens"]), vocab=size, shards=len(tasks),
        made=len(todo), text_bytes=sum(p.end - p.begin for p in pieces),
        tokenizer="trained" if tokenizer is None else str(tokenizer),
    )  # fmt: skip


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise InputError(
            "the package tokenizers is needed to prepare text", hint="pip install 'weftline[run]'"
        ) from None
    return tokenizers


def _place_tokenizer(given: Path | None, path: Path, pieces: Sequence[Piece], vocab: int) -> None:
    """Put the tokenizer into the folder: the one given, the one there, or a new one."""
    tokenizers = _tokenizers()
    if given is not None:
        file = given / TOKENIZER_FILE if given.is_dir() else given
        try:
            text = file.read_text(encoding="utf-8")
            tokenizers.Tokenizer.from_str(text)
        except OSError as error:
            raise InputError(error.strerror or "cannot read", where=str(file)) from None
        except Exception as error:
            # The library raises its own kinds for what it cannot parse.
            raise InputError(f"not a tokenizer: {error}", where=str(file)) from None
        write_text(text, path)
        return
    wish = {"vocab": vocab, "text": sum(p.end - p.begin for p in pieces)}
    note = path.with_name(".tokenizer.json")
    if path.exists() and note.exists() and json.loads(note.read_text(encoding="utf-8")) == wish:
        return
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[END], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(_sample(pieces), trainer)
    write_text(made.to_str(), path)
    write_text(json.dumps(wish), note)


def _sample(pieces: Sequence[Piece]) -> list[str]:
    every = max(1, sum(p.end - p.begin for p in pieces) // _TRAIN_BYTES)
    return [piece.text() for piece in pieces[::every]]


def _tasks(pieces: Sequence[Piece], digest: str, shard_bytes: int) -> list[_Task]:
    groups: list[list[Piece]] = [[]]
    held = 0
    for piece in pieces:
        if held and held + piece.end - piece.begin > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(piece)
        held += piece.end - piece.begin
    tasks = []
    for number, group in enumerate(groups):
        times = [Path(p.path).stat().st_mtime_ns for p in group]
        what = json.dumps([[asdict(p) for p in group], times, digest])
        tasks.append(_Task(number, tuple(group), hashlib.sha256(what.encode()).hexdigest()))
    return tasks


def _note(folder: Path, task: _Task) -> dict[str, Any] | None:
    """What is known of a shard that was made of just this; None where it must be made."""
    name = _name(task)
    try:
        row: dict[str, Any] = json.loads((folder / f".{name}.json").read_text(encoding="utf-8"))
        whole = (folder / name).stat().st_size == row["bytes"]
    except (OSError, ValueError, KeyError):
        return None
    return row if whole and row.get("key") == task.key else None


def _name(task: _Task) -> str:
    return f"shard-{task.number:05d}.bin"


def _made(tasks: Sequence[_Task], folder: Path, tokenizer: Path, dtype: str, processes: int) -> Any:
    if processes <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield _make(task, folder, tokenizer, dtype)
        return
    # Not forked: the tokenizer's own threads would be left behind, with their locks held.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed(
            [pool.submit(_make, task, folder, tokenizer, dtype) for task in tasks]
        ):
            yield future.result()


def _make(task: _Task, folder: Path, tokenizer: Path, dtype: str) -> int:
    """Write one shard and its note; the number of its tokens."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    coder = _tokenizers().Tokenizer.from_file(str(tokenizer))
    end = next((i for i in map(coder.token_to_id, _ENDS) if i is not None), None)
    rows = []
    for piece in task.pieces:
        ids = coder.encode(piece.text(), add_special_tokens=False).ids
        rows.append(np.asarray([*ids, end] if end is not None else ids, dtype))
    data = np.concatenate(rows).tobytes()
    name = _name(task)
    temporary = folder / f".{name}.tmp"
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / name)
    tokens = len(data) // np.dtype(dtype).itemsize
    note = {"file": name, "tokens": tokens, "bytes": len(data), "key": task.key,
            "sha256": hashlib.sha256(data).hexdigest()}  # fmt: skip
    write_text(json.dumps(note), folder / f".{name}.json")
    return tokens
