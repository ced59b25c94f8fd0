"""The constants a step time rests on: what they are, where they come from, how far to trust them.

Every constant is physical and bounded. A set belongs to one (chip, framework) group; the fit
(``weftline.plan.calibrate.calibration``) writes it together with the rows it rests on. Arrays may
stand in for floats, so that one evaluation can serve rows of many groups while fitting.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Number = float | FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Fractions are of a published peak; ``_s`` is seconds."""

    gemm_efficiency: Number
    """Fraction of the dense peak that a GEMM far beyond all tile sizes reaches."""
    gemm_half_size: Number
    """Size at which one GEMM dimension costs half its rate: d / (d + half_size) per dimension."""
    lowp_efficiency: Number
    """What fp8 (or int8) GEMMs keep of ``gemm_efficiency``: casts, scales and amax included."""
    fp4_efficiency: Number
    """The same for fp4."""
    power_half_w: Number
    """Design power a bf16 TFLOP/s below which power bounds the rate: clocks under load are
    (1 + (half / w)^4)^(-1/4), so that a rate rises with the peak up to tdp / half."""
    attention_efficiency: Number
    """Fraction of the bf16 peak that fused attention reaches."""
    memory_efficiency: Number
    """Fraction of memory bandwidth that norms, activations and the optimizer reach."""
    traffic: Number
    """Bytes really moved by bandwidth-bound operators over the least possible: unfused kernels."""
    host_layer_s: Number
    """Least time of a layer's forward pass on the host: kernel launches (Python eager mode)."""
    scale_up_efficiency: Number
    """Fraction of the link rate collectives reach inside the scale-up domain."""
    scale_out_efficiency: Number
    """The same over NICs."""
    tp_overlap: Number
    """Share of tensor-parallel communication hidden behind compute."""
    dp_overlap: Number
    """Largest share of gradient and parameter communication hidden behind compute."""
    pp_overlap: Number
    """Share of pipeline sends hidden behind compute."""
    ep_overlap: Number
    """Share of expert all-to-all hidden behind compute."""
    expert_imbalance: Number
    """Load of the busiest expert rank over the mean."""
    straggler: Number
    """Step time grows by this fraction each doubling of the chips."""
    step_overhead_s: Number
    """Fixed time a step: data, optimizer launch, logging."""


FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Constants))

BOUNDS: dict[str, tuple[float, float]] = {
    "gemm_efficiency": (0.25, 0.98),
    "gemm_half_size": (4.0, 1024.0),
    "lowp_efficiency": (0.3, 1.0),
    "fp4_efficiency": (0.15, 1.0),
    "power_half_w": (0.05, 1.2),
    "attention_efficiency": (0.08, 0.8),
    "memory_efficiency": (0.4, 0.95),
    "traffic": (0.5, 6.0),
    "host_layer_s": (1e-6, 4e-3),
    "scale_up_efficiency": (0.2, 0.98),
    "scale_out_efficiency": (0.15, 0.98),
    "tp_overlap": (0.0, 0.95),
    "dp_overlap": (0.0, 0.98),
    "pp_overlap": (0.0, 0.98),
    "ep_overlap": (0.0, 0.95),
    "expert_imbalance": (1.0, 2.5),
    "straggler": (0.0, 0.04),
    "step_overhead_s": (1e-4, 0.5),
}
"""Physical ranges a fit must stay in: no fraction above one, no negative time."""

PRIOR = Constants(
    gemm_efficiency=0.85,
    gemm_half_size=96.0,
    lowp_efficiency=0.8,
    fp4_efficiency=0.6,
    power_half_w=0.4,
    attention_efficiency=0.4,
    memory_efficiency=0.8,
    traffic=1.5,
    host_layer_s=2e-4,
    scale_up_efficiency=0.8,
    scale_out_efficiency=0.75,
    tp_overlap=0.3,
    dp_overlap=0.7,
    pp_overlap=0.6,
    ep_overlap=0.3,
    expert_imbalance=1.15,
    straggler=0.004,
    step_overhead_s=0.01,
)
"""Where a fit starts and what a group without rows falls back to; stated as ``assumed``."""


def without_overlap(base: Constants) -> Constants:
    """``base`` with no communication hidden."""
    return replace(base, tp_overlap=0.0, dp_overlap=0.0, pp_overlap=0.0, ep_overlap=0.0)
