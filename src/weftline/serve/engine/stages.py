"""What parts of an iteration count more than once for: pipeline stages, passes of a draft."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from weftline.serve.engine.parts import PARTS, Setting

__all__ = ["draft_multiples", "fill_share", "stage_multiples", "stalled"]

FloatArray = npt.NDArray[np.float64]


def stage_multiples(setting: Setting, stages: FloatArray) -> FloatArray:
    """[n, parts] what each part of a traversal counts where ``stages`` work side by side.

    Micro-batches follow each other through the stages, as many as there are stages; a round of all
    takes the slowest stage's time for each. A traversal passes every layer once, so the layers
    count once, but for the stage that holds more of them than the mean; the host's work for an
    iteration is done in every stage, and the projection to the vocabulary is the last stage's
    alone, on which the others wait where all hold as many layers.
    """
    layers = float(setting.work.layers)
    most = np.ceil(layers / stages)
    slowest = most * stages / layers
    slowest = slowest * stalled(stages)
    out = np.repeat(slowest[:, None], len(PARTS), axis=1)
    out[:, PARTS.index("iteration")] = stages
    out[:, PARTS.index("sequences")] = stages
    out[:, PARTS.index("head")] = np.where(most * stages == layers, stages, 1.0)
    return out


STALL: Final = 0.05
"""A round's time lost for each further stage: micro-batches with and without a prompt's chunk are
unequal, and the quick ones wait behind the slow ones. TensorRT-LLM 1.0 on 2, 4 and 8 RTX PRO 6000
loses 2, 20 and 38 % of what one stage gives (its perf-overview); taken with those rows in view."""


def stalled(stages: FloatArray) -> FloatArray:
    """A round of unequal micro-batches over one of equal ones."""
    return np.asarray(1.0 + STALL * (stages - 1.0))


def fill_share(input_tokens: FloatArray, iteration_tokens: FloatArray,
               stages: FloatArray) -> FloatArray:  # fmt: skip
    """Time until the last of ``c`` chunks has passed ``p`` stages: (c + p - 1) / (c p) of theirs.

    One where there is one stage, or one chunk, which passes all of them alone.
    """
    chunks = np.maximum(np.ceil(input_tokens / np.maximum(iteration_tokens, 1.0)), 1.0)
    return np.asarray((chunks + stages - 1.0) / (chunks * stages))


def draft_multiples(setting: Setting, drafted: FloatArray) -> FloatArray:
    """[n, parts] what each part of a decode iteration counts that also drafts ``drafted`` tokens.

    A prediction module is one more layer and a projection to the vocabulary, passed once a drafted
    token, one pass after the other; each is launched by itself. What verifies the drafts is in the
    iteration's own tokens.
    """
    out = np.repeat(1.0 + drafted[:, None] / float(setting.work.layers), len(PARTS), axis=1)
    out[:, PARTS.index("sequences")] = 1.0
    for part in ("head", "iteration"):
        out[:, PARTS.index(part)] = 1.0 + drafted
    return out
