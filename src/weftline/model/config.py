"""Read a Hugging Face ``config.json``: typed fields, every mistake reported at once.

A builder reads all the fields it needs, then calls :meth:`HFConfig.check`, which raises one
:class:`~weftline.errors.InputErrors` for everything that was missing, malformed or contradictory,
with the line where the field stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from weftline.errors import nearest_names
from weftline.model.known import transformers_types
from weftline.model.reader import MAX_CONFIG_BYTES, Reader, shown

__all__ = ["MAX_CONFIG_BYTES", "HFConfig"]

MAX_SIZE: Final = 2**31
MAX_LAYERS: Final = 10_000
_KIND_SYNONYMS: Final = {
    "attention": "full_attention", "global_attention": "full_attention", "global": "full_attention",
    "local_attention": "sliding_attention", "local": "sliding_attention",
    "mamba": "linear_attention", "mamba2": "linear_attention", "recurrent": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
}  # fmt: skip
"""Names of layer kinds in files of before transformers 5 -> the names of today."""

Int: TypeAlias = int  # `HFConfig.int` would otherwise shadow the type in annotations


class HFConfig(Reader):
    """The fields of one config by type, with its mistakes collected until :meth:`check`.

    For multimodal models the language model's section (``text_config``) is read.
    """

    def name_of(self, key: str, aliases: tuple[str, ...] = ()) -> str:
        """The name under which the file has the field; ``key`` where it has none."""
        found = (n for n in self._names(key, aliases) if self.fields.get(n) is not None)
        return next(found, key)

    def _missing(self, key: str, need: str) -> None:
        near = nearest_names(key, [k for k in self.fields if k != key])
        hint = f"did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else None
        state = "is null" if key in self.fields else "is missing"
        self.mistake(key, f"field `{key}` {state}: {need} is needed", hint=hint)

    def int(
        self, key: str, *aliases: str, minimum: Int = 1, maximum: Int = MAX_SIZE,
        default: Int | None = None,
    ) -> Int:  # fmt: skip
        """A whole number of at least ``minimum``; a mistake yields ``max(1, minimum)``."""
        value = self.get(key, *aliases)
        need = f"a whole number of at least {minimum}"
        if value is None and default is not None:
            return default
        if value is None:
            self._missing(key, need)
            return max(1, minimum)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {shown(value)}: {need} is needed")
            return max(1, minimum)
        if value > maximum:
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {shown(value)}: {maximum} is the most")
            return max(1, minimum)
        return value

    def int_or(self, key: str, default: Int, *aliases: str, minimum: Int = 1) -> Int:
        """A whole number, or ``default`` where the field is missing or null."""
        return self.int(key, *aliases, minimum=minimum, default=default)

    def optional_int(self, key: str, *aliases: str, minimum: Int = 1) -> Int | None:
        """A whole number, or ``None`` where the field is missing or null."""
        return self.int(key, *aliases, minimum=minimum) if self.get(key, *aliases) else None

    def layers(self, key: str = "num_hidden_layers", *aliases: str) -> Int:
        """The number of layers, bounded so that a typing error cannot fill the memory."""
        return self.int(key, *aliases, maximum=MAX_LAYERS)

    def float_or(self, key: str, default: float, *, minimum: float = 0.0) -> float:
        """A finite number of at least ``minimum``, or ``default``."""
        value = self.get(key)
        if value is None:
            return default
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not minimum <= value < float("inf"):
            need = f"a number of at least {minimum:g}"
            self.mistake(key, f"field `{key}` is {shown(value)}: {need} is needed")
            return default
        return float(value)

    def bool_or(self, key: str, default: bool, *aliases: str) -> bool:
        """``true`` or ``false``, or ``default``."""
        value = self.get(key, *aliases)
        if value is None:
            return default
        if not isinstance(value, bool):
            name = self.name_of(key, aliases)
            self.mistake(name, f"field `{name}` is {shown(value)}: true or false is needed")
            return default
        return value

    def str_or(self, key: str, default: str, *, allowed: Sequence[str] = ()) -> str:
        """A string, one of ``allowed`` where given, or ``default``."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or (allowed and value not in allowed):
            need = f"one of {', '.join(allowed)}" if allowed else "a string"
            self.mistake(key, f"field `{key}` is {shown(value)}: {need} is needed")
            return default
        return value

    def list_or(self, key: str, default: Sequence[Any], *, length: Int | None = None) -> list[Any]:
        """A list, or ``default``; of ``length`` entries where given."""
        value = self.get(key)
        if value is None:
            return list(default)
        if not isinstance(value, list):
            self.mistake(key, f"field `{key}` is {shown(value)}: a list is needed")
            return list(default)
        if length is not None and len(value) != length:
            self.mistake(
                key,
                f"field `{key}` has {len(value)} entries, the model has {length} layers",
                hint="one entry a layer is needed: correct the list or `num_hidden_layers`",
            )
            return [*value, *([value[-1]] * length)][:length] if value else list(default)
        return value

    def kinds(
        self, key: str, allowed: Iterable[str], length: Int, default: Sequence[str]
    ) -> tuple[str, ...]:
        """A list of layer kinds such as ``layer_types``: one of ``allowed`` for each layer."""
        known = tuple(allowed)
        values = [
            _KIND_SYNONYMS.get(v, v) if isinstance(v, str) and v not in known else v
            for v in self.list_or(key, default, length=length)
        ]
        strange = sorted({str(v) for v in values if v not in known})
        if strange:
            near = nearest_names(strange[0], known)
            self.mistake(
                key,
                f"field `{key}` holds {', '.join(f'`{s}`' for s in strange[:4])}, which this "
                f"family does not have: {', '.join(known)}",
                hint=f"did you mean `{near[0]}`?" if near else None,
            )
        return tuple(v if v in known else known[0] for v in values)

    def indices(self, key: str, layers: Int) -> frozenset[Int]:
        """A list of layer indices (from 0), each below ``layers``; empty where missing."""
        values = self.list_or(key, ())
        good = [v for v in values if isinstance(v, int) and not isinstance(v, bool)]
        self.require(
            len(good) == len(values) and all(0 <= v < layers for v in good), key,
            f"field `{key}` must hold layer indices from 0 to {layers - 1}",
        )  # fmt: skip
        return frozenset(good)

    # -- what nearly every family has -------------------------------------------------------------

    def attention_heads(
        self, hidden: Int, *, default_head_dim: Int | None = None
    ) -> tuple[Int, Int, Int]:
        """(query heads, key-value heads, head dimension), checked against each other.

        ``default_head_dim`` is the family's own where it is not ``hidden / heads``.
        """
        heads = self.int("num_attention_heads")
        kv_heads = self.int_or("num_key_value_heads", heads)
        if not self.has("head_dim") and default_head_dim is None:
            self.require(
                hidden % heads == 0, "hidden_size",
                f"`hidden_size` {hidden} does not divide by `num_attention_heads` {heads}",
                hint="correct one of them, or state `head_dim`",
            )  # fmt: skip
        self.require(
            heads % kv_heads == 0, "num_key_value_heads",
            f"`num_attention_heads` {heads} does not divide by `num_key_value_heads` {kv_heads}",
            hint="each key-value head serves the same number of query heads",
        )  # fmt: skip
        return heads, kv_heads, self.int_or("head_dim", default_head_dim or max(1, hidden // heads))

    def expert_counts(self, experts_key: str, top_k_key: str, *aliases: str) -> tuple[Int, Int]:
        """(experts, experts a token is routed to), checked against each other."""
        experts = self.int(experts_key, *aliases)
        top_k = self.int(top_k_key)
        self.require(
            top_k <= experts, top_k_key,
            f"`{top_k_key}` {top_k} exceeds `{experts_key}` {experts}",
            hint="a token cannot be routed to more experts than there are",
        )  # fmt: skip
        return experts, top_k

    def tied(self, default: bool) -> bool:
        """Whether the output projection shares the token table; the whole file's word wins.

        transformers ties by the outer configuration: a section's own field counts only where the
        outer class takes it over. Some of its models tie nothing, whatever is said.
        """
        self._seen.add("tie_word_embeddings")
        inner = self.fields.get("tie_word_embeddings")
        outer = self.top.get("tie_word_embeddings") if self.section else None
        for value in (inner, outer):
            if value is not None and not isinstance(value, bool):
                return self.bool_or("tie_word_embeddings", default)
        known = self.outer_class.defaults.get("tie_word_embeddings")
        if self.outer_class.ties == "inner":
            outer = None if inner is not None else known
        elif self.section and outer is None:
            # A class of transformers without the field ties nothing, whatever its section says.
            other = False if self.model_type in transformers_types() else inner
            outer = other if known is None else known
        if self.section and self.outer_class.ties == "either" and outer is not True:
            outer = default if inner is None else inner
        value = inner if outer is None else outer
        tied = default if value is None else value
        if tied and self.outer_class.ties == "never":
            self.mistake(
                "tie_word_embeddings",
                f"`tie_word_embeddings` is true, but `{self.model_type}` has no weights to tie",
                hint="set it to false, as transformers' model has it",
            )  # fmt: skip
        return bool(tied)

    def rotated(self, head_dim: Int, default: float = 1.0, *, kind: str = "") -> Int:
        """Values of a head that rotary positions turn: ``partial_rotary_factor`` of them.

        It stands in ``rope_parameters`` (transformers 5), there for each ``kind`` of layer where
        kinds differ, or by itself.
        """
        rope = self.get("rope_parameters")
        rope = rope if isinstance(rope, dict) else {}
        inner = rope.get(kind)
        rope = inner if isinstance(inner, dict) else rope
        factor = self.float_or("partial_rotary_factor", default)
        stated = rope.get("partial_rotary_factor")
        if isinstance(stated, (int, float)) and not isinstance(stated, bool):
            factor = float(stated)
        return int(head_dim * factor)

    @property
    def dtype(self) -> str:
        """The dtype of the published weights as the config states it."""
        # Of both names transformers keeps the newer.
        return str(self.get("dtype") or self.get("torch_dtype") or "bfloat16")
