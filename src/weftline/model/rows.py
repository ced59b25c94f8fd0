"""What weftline counts for every bundled model, beside what its makers state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from weftline.model.known import unchecked_types
from weftline.model.load import BundledModel, bundled_index, load_model

__all__ = ["TABLE_SEQ_LEN", "ModelRow", "parameter_table", "unverified"]

TABLE_SEQ_LEN: Final = 4096
"""Tokens of the sequences that FLOPs a token are stated for."""

_BY_NAME: Final[dict[str, str]] = {
    "t5-v1.1-base": "transformers 5 ties the output projection, the published weights do not",
    "t5-v1.1-xxl": "transformers 5 ties the output projection, the published weights do not",
}
_TWINS: Final = ("kimi_k2", "mimo", "minimax_m3")
"""Types that transformers has under another name, which the tests build instead."""


@lru_cache(maxsize=1)
def unverified() -> dict[str, str]:
    """Bundled configs whose total is not that of a model in transformers, and what it rests on.

    For every other config the tests build transformers' own model and demand the same total, digit
    for digit.
    """
    types = unchecked_types()
    found = dict(_BY_NAME)
    for name in bundled_index():
        kind = load_model(name).family
        if kind in types and kind not in _TWINS:
            found[name] = types[kind]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One bundled model: counted here, and stated by its makers."""

    name: str
    parameters: int
    """Total parameters, shared weights once."""
    active_parameters: int
    """Parameters one token touches, embedding and output projection included."""
    training_flops_per_token: float
    """FLOP a token of training at ``TABLE_SEQ_LEN``: three forwards, unmasked attention."""
    kv_bytes_per_token: float
    """Bytes of 16-bit cache one more token needs while no window is full."""
    state_bytes: float
    """Bytes of 32-bit recurrent state a sequence needs."""
    equals_transformers: bool
    """Whether the total is that of transformers' own model, which the tests check."""
    published_parameters: float | None
    """Total parameters as stated by the makers."""
    basis: str | None
    """``card`` (model card or paper) or ``name`` (rounded, in the model's name)."""
    notes: tuple[str, ...]
    """What the count leaves out or rests on."""

    @property
    def difference(self) -> float | None:
        """Ours against the published total, as a fraction of it."""
        if not self.published_parameters:
            return None
        return self.parameters / self.published_parameters - 1


def _row(entry: BundledModel) -> ModelRow:
    model = load_model(entry.name)
    return ModelRow(
        name=entry.name,
        parameters=model.parameters,
        active_parameters=model.active_parameters,
        training_flops_per_token=model.training_flops_per_token(TABLE_SEQ_LEN),
        kv_bytes_per_token=model.kv_bytes_per_token(),
        state_bytes=model.state_bytes(),
        equals_transformers=entry.file is not None and entry.name not in unverified(),
        published_parameters=entry.published_parameters,
        basis=entry.basis,
        notes=(*model.notes, *([unverified()[entry.name]] if entry.name in unverified() else [])),
    )


def parameter_table() -> tuple[ModelRow, ...]:
    """A row for every bundled model, by name."""
    return tuple(_row(entry) for entry in bundled_index().values())
