"""Models in the terminal: the list of bundled ones, and a count by transformers' own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from weftline.model import load_model
from weftline.model.ir import Model
from weftline.model.load import bundled_index
from weftline.report.text import page, table, wrapped
from weftline.spec.attention import DENSE, Chunk, Window
from weftline.units import format_count

__all__ = ["model_rows", "render_count", "render_models"]

PARTS_SHOWN: Final = 8


def model_rows(maker: str | None = None) -> list[dict[str, Any]]:
    """One row a bundled model; ``maker`` limits them to one organisation of the Hub."""
    rows = []
    for entry in bundled_index().values():
        organisation = (entry.hf_id or "").partition("/")[0] or None
        if maker is not None and (organisation or "").lower() != maker.lower():
            continue
        model = load_model(entry.name)
        rows.append(
            {
                "id": entry.name, "repository": entry.hf_id, "parameters": model.parameters,
                "active_parameters": model.active_parameters, "context": model.max_seq_len,
                "attention": attention_of(model), "kv_bytes_per_token": model.kv_bytes_per_token(),
                "licence": entry.licence, "left_out": [str(part) for part in model.left_out],
                "source": entry.source or "as published by its makers",
            }
        )  # fmt: skip
    return rows


def attention_of(model: Model) -> str:
    """``GQA``, ``MLA``, ``GQA, window 4,096``...: the kinds of attention and state it has."""
    found: dict[str, None] = {}
    for layer in model.layers:
        mixer = layer.kind.partition("+")[0]
        for op in layer.operators:
            a = op.attention
            if op.kind == "scan":
                found.setdefault("recurrent")
            if a is None or op.name.startswith("indexer"):
                continue
            if mixer.startswith(("mla", "dsa")):
                name = "MLA"
            elif a.kv_heads == a.heads:
                name = "MHA"
            else:
                name = "MQA" if a.kv_heads == 1 else "GQA"
            if isinstance(a.rule, Window | Chunk):
                kind = "window" if isinstance(a.rule, Window) else "chunk"
                name += f" {kind} {a.rule.tokens:,}"
            elif a.rule != DENSE:
                name += " sparse"
            found.setdefault(name)
    return ", ".join(found) or "none"


def render_models(rows: Sequence[Mapping[str, Any]]) -> str:
    """``catalog list models`` for a terminal."""
    lines = [
        (
            str(r["id"]),
            format_count(r["parameters"]),
            "" if r["active_parameters"] == r["parameters"] else format_count(
                r["active_parameters"]),
            "-" if r["context"] is None else f"{r['context']:,}",
            str(r["attention"]),
            str(r["licence"] or "not known"),
        )
        for r in rows
    ]  # fmt: skip
    header = ("model", "parameters", "active", "context", "attention", "licence of the weights")
    text = (
        "Counted from the configs, operator by operator. Licences as the model cards state them, "
        "recalled. `docs/models.md` has FLOPs, cache and what was checked; other names that are "
        "understood: Hub ids, with or without -Instruct, -FP8 and the like."
    )
    return page(
        [f"{len(rows)} models", *table(header, lines, right=frozenset({1, 2, 3}), fold=True), "",
         *wrapped(text)]
    )  # fmt: skip


def render_count(answer: Mapping[str, Any]) -> str:
    """``model count`` for a terminal; the first line is the answer."""
    total = answer["parameters"]
    ours = answer["planned_parameters"]
    lines = [
        f"{total:,} parameters ({format_count(total)}): {answer['model_class']} of transformers "
        f"{answer['version']}",
        "",
    ]
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in answer["parts"][:PARTS_SHOWN]]
    lines += table(("part", "parameters", "share"), rows, right=frozenset({1, 2}))
    if ours is None:
        lines += ["", "weftline cannot plan it"]
    elif ours == total:
        lines += ["", "weftline counts the same"]
    else:
        lines += ["", f"weftline counts {ours:,} ({ours - total:+,})"]
    for note in answer["model_notes"]:
        lines += wrapped(str(note), indent="  ", hang="  ")
    return page(lines)
