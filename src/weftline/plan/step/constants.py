"""The constants a step time rests on: what they are, within which bounds, how far they may differ.

What a kernel takes is measured or a roofline (:mod:`weftline.operators.products`); constants say
what a training run loses on top. There are few, all physical and bounded. The fit
(:mod:`weftline.plan.calibrate.fit`) finds one set for all runs and how chip families, chips and
recipes differ from it, each held to nothing by the spread stated here: what few rows say moves
little, and a source never seen is predicted from the pool. Arrays may stand in for floats, so that
one evaluation can serve rows of many groups while fitting.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """A ``_loss`` multiplies a reference time; ``_exposed`` is a share of hidden communication."""

    product_loss: Number
    """Time of a bf16 product in training over the reference."""
    low_loss: Number
    """The same of fp8 and int8, without casts."""
    fp4_loss: Number
    """What fp4 products take beside that, over their own reference."""
    rowwise_loss: Number
    """What fp8 with a scale a row takes beside that."""
    grouped_loss: Number
    """What products of experts take beside that: uneven loads, ragged tiles."""
    sustained_w: Number
    """Design power a TFLOP/s of the bf16 peak below which power bounds products for hours: they
    reach 0.9 (1 + (this / own)^4)^(-1/4) of the peak at most. Energy a FLOP halves as its bits do,
    so that one figure serves all formats."""
    attention_loss: Number
    """Time of fused attention's forward pass over the reference."""
    attention_back_loss: Number
    """Time a FLOP of its backward pass (five products for two) over the forward reference."""
    unfused_loss: Number
    """Time of attention whose scores pass through memory, over the reference."""
    old_attention_loss: Number
    """What flash attention 2 takes on chips that newer kernels are written for."""
    triton_attention_loss: Number
    """What flash attention's first form in Triton takes beside flash attention 2."""
    scan_loss: Number
    """Time of recurrent layers' scans over the reference."""
    traffic: Number
    """Bytes really moved by norms and activations over the least possible."""
    vector_ops: Number
    """Instructions a byte that kernels of norms, activations, routing and casts issue: where memory
    outruns the vector lanes, these bound them."""
    cast_traffic: Number
    """The same of quantisation inside neighbouring kernels: (2 + 1 + 1) bytes a value."""
    unfused_casts: Number
    """What quantisation in kernels of its own takes beside that."""
    routed_traffic: Number
    """Bytes really moved by permutation of routed tokens over four passes of them."""
    unfused_routing: Number
    """What routing, activation and quantisation of experts in kernels of their own take beside."""
    launch_s: Number
    """Host time of one kernel launch in eager mode."""
    scale_up_loss: Number
    """Time of collectives inside the scale-up domain over what the library reaches alone."""
    scale_out_loss: Number
    """The same over NICs."""
    tp_exposed: Number
    """Share of tensor-parallel communication that shows where the recipe overlaps it."""
    dp_exposed: Number
    """The same of gradients and parameters, beside what outlasts the compute it hides behind."""
    pp_exposed: Number
    cp_exposed: Number
    ep_exposed: Number
    straggler: Number
    """Step time grows by this fraction each doubling of the chips."""
    step_overhead_s: Number
    """Fixed time a step: data, optimizer launch, logging."""


FIELDS: Final[tuple[str, ...]] = tuple(f.name for f in fields(Constants))


@dataclass(frozen=True, slots=True)
class Prior:
    """Where a constant starts, between which bounds, and how far it may differ.

    Spreads are standard deviations: of ln(value) for times and losses, of the logit for shares
    (``relative`` false). ``overall`` is how sure the start is; the others are how chip families,
    chips and recipes differ, 0 where they do not.
    """

    start: float
    low: float
    high: float
    overall: float
    family: float = 0.0
    chip: float = 0.0
    recipe: float = 0.0
    relative: bool = True


PRIORS: Final[dict[str, Prior]] = {
    "product_loss": Prior(1.05, 0.9, 3.0, 0.10, 0.08, 0.02, 0.03),
    "low_loss": Prior(1.15, 0.9, 4.0, 0.20, 0.12, 0.02, 0.05),
    "fp4_loss": Prior(1.25, 0.8, 4.0, 0.25, 0.0, 0.0, 0.05),
    "rowwise_loss": Prior(1.5, 1.0, 5.0, 0.3),
    "grouped_loss": Prior(1.2, 0.9, 3.0, 0.20, 0.08, 0.02, 0.08),
    "sustained_w": Prior(0.75, 0.2, 1.5, 0.2),
    "attention_loss": Prior(1.1, 0.8, 3.0, 0.2, 0.1, 0.0, 0.2),
    "attention_back_loss": Prior(1.25, 0.7, 4.0, 0.1, 0.05, 0.0, 0.15),
    "unfused_loss": Prior(1.3, 0.5, 5.0, 0.4, 0.0, 0.0, 0.2),
    "old_attention_loss": Prior(1.75, 1.0, 3.0, 0.1),
    "triton_attention_loss": Prior(1.4, 1.0, 2.5, 0.1),
    "scan_loss": Prior(2.0, 0.8, 15.0, 0.3, 0.1, 0.0, 0.1),
    "traffic": Prior(2.0, 0.8, 8.0, 0.25, 0.15, 0.03, 0.25),
    "vector_ops": Prior(6.0, 1.0, 30.0, 0.2),
    "cast_traffic": Prior(1.0, 0.3, 4.0, 0.5, 0.0, 0.0, 0.3),
    "unfused_casts": Prior(2.5, 1.0, 6.0, 0.4, 0.0, 0.0, 0.2),
    "routed_traffic": Prior(1.0, 0.3, 4.0, 0.3, 0.0, 0.0, 0.2),
    "unfused_routing": Prior(2.0, 1.0, 5.0, 0.3, 0.0, 0.0, 0.2),
    "launch_s": Prior(1.6e-5, 1e-6, 1e-4, 0.5, 0.0, 0.0, 0.7),
    "scale_up_loss": Prior(1.1, 0.7, 4.0, 0.2, 0.15, 0.1, 0.1),
    "scale_out_loss": Prior(1.2, 0.7, 5.0, 0.3, 0.15, 0.1, 0.15),
    "tp_exposed": Prior(0.6, 0.0, 1.0, 0.7, 0.0, 0.0, 0.6, relative=False),
    "dp_exposed": Prior(0.3, 0.0, 1.0, 0.7, 0.0, 0.0, 0.6, relative=False),
    "pp_exposed": Prior(0.4, 0.0, 1.0, 0.7, 0.0, 0.0, 0.5, relative=False),
    "cp_exposed": Prior(0.4, 0.0, 1.0, 0.5, 0.0, 0.0, 0.3, relative=False),
    "ep_exposed": Prior(0.5, 0.0, 1.0, 0.7, 0.0, 0.0, 0.6, relative=False),
    "straggler": Prior(0.004, 0.0001, 0.04, 0.7, 0.0, 0.0, 0.5),
    "step_overhead_s": Prior(0.01, 1e-4, 0.5, 0.8, 0.0, 0.0, 0.6),
}
"""Starts and spreads. Shares and losses start where kernel tables, framework papers and vendors'
guides put them; no row of a source is needed for any of them. Which differences are allowed at all
was chosen with every row in view. Chips of a family are one die or its next step, with kernels
compiled for all of them: what bandwidth, power and peak do not explain may differ by 2 or 3 %, so
that a chip with few rows leans on its family; links and NICs are the chip's own. A launch of
Transformer Engine's modules, which most rows run on, costs the host three times one of torch's
(NVIDIA/TransformerEngine issues 445 and 761): 16 us, not the 5 of a bare kernel; a start below it
leaves the fit in a valley where the host never shows and other losses stand for it."""

BOUNDS: Final[dict[str, tuple[float, float]]] = {n: (p.low, p.high) for n, p in PRIORS.items()}
"""Physical ranges a fit must stay in."""

PRIOR: Final = Constants(**{name: prior.start for name, prior in PRIORS.items()})
"""Where a fit starts; stated as ``assumed``."""


def without_overlap(base: Constants) -> Constants:
    """``base`` with no communication hidden."""
    return replace(
        base, tp_exposed=1.0, dp_exposed=1.0, pp_exposed=1.0, cp_exposed=1.0, ep_exposed=1.0
    )
