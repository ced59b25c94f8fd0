"""The engine model's constants: a few shared by all, and how engines and chips depart from them.

Constants live as one vector of logarithms (:class:`Layout` names its slots), so that a fit can pull
every departure to zero and every base to its physical start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from weftline.serve.engine.closed_form import Constants
from weftline.serve.engine.parts import HOST_PARTS, PARTS

__all__ = [
    "ENGINES", "SLOTS", "START", "Traits", "constants_of", "fuses", "pull_of", "start_of",
]  # fmt: skip

FloatArray = npt.NDArray[np.float64]

ENGINES: Final = ("sglang", "trtllm", "vllm")
MOST_DRAFTED: Final = 16
"""Beyond this a draft's last tokens add nothing that shows."""
WAVES: Final = 10.0
"""Requests for each one in flight, in public sweeps (``--num-prompts`` over concurrency)."""
TRAITS: Final = (*ENGINES, "hopper", "disagg", "early", "drafting")
"""What departs: the engine, the chip's generation, pools of their own, runs before 2025-12,
speculation."""
START: Final[Mapping[str, float]] = {
    "gemm_block": 1.2, "gemm_8bit": 1.0, "gemm_4bit": 1.0, "gemm_plain": 1.0,
    "gemm_compute": 1.0, "quantise": 1.0,
    "fp32": 1.0, "head": 1.0, "moe_block": 1.0, "moe": 1.0, "moe_spread": 0.1, "moe_route": 2.0,
    "decode_attention": 1.0, "prefill_attention": 1.0, "scan": 1.0, "elementwise": 1.5,
    "all_reduce": 1.0, "exchange": 0.6, "kernels": 1.0, "launches": 1.0, "layers": 3.0,
    "iteration": 0.5, "sequences": 1.5,
    "tokens": 0.5, "adapters": 1.0,
}  # fmt: skip
"""Where coefficients start and what holds them: measured kernels cost what they cost."""
DEPARTING: Final[Mapping[str, tuple[float, float]]] = {
    **{f"{e}.{p}": (1.0, 4.0) for e in ENGINES
       for p in ("gemm_block", "gemm_8bit", "gemm_4bit", "moe_block", "moe", "decode_attention",
                 "all_reduce", "kernels")},
    **{f"{e}.iteration": (1.0, 2.0) for e in ENGINES},
    "vllm.sequences": (1.0, 1.0), "sglang.sequences": (1.0, 1.0), "trtllm.sequences": (0.2, 1.0),
    **{f"hopper.{p}": (1.0, 0.7) for p in ("gemm_block", "moe_block")},
    **{f"hopper.{p}": (1.0, 4.0) for p in ("gemm_8bit", "gemm_plain", "moe",
                                            "decode_attention", "all_reduce", "kernels")},
    **{f"disagg.{p}": (1.0, 7.0) for p in ("moe", "decode_attention", "exchange")},
    **{f"early.{p}": (1.0, 3.0) for p in ("gemm_block", "moe_block", "moe", "decode_attention",
                                           "iteration")},
    "drafting.sglang.iteration": (4.0, 1.0),
    "early.vllm.sequences": (20.0, 1.0), "early.sglang.sequences": (4.0, 1.0),
    "early.trtllm.sequences": (1.0, 2.0),
}  # fmt: skip
"""What departs from the constants that all share: trait and part, start, and what holds it there.

Blocks of fp8 run other kernels on Hopper than on Blackwell. A server's host work for a running
sequence is its own: about 35 us in vLLM of 2025, next to nothing within TensorRT-LLM's process."""
PREFILLING: Final = (
    "gemm_block", "gemm_8bit", "gemm_4bit", "gemm_plain", "moe_block", "moe", "all_reduce",
    "exchange", "moe_route", "launches", "layers", "iteration",
)  # fmt: skip
"""Parts that may cost other multiples in a prefill: large shapes, and no captured graph. Attention
to prompts is in prefills alone: its coefficient is the one of its part."""
PREFILL_STARTS: Final[Mapping[str, tuple[float, float]]] = {
    "launches": (30.0, 2.0), "moe_route": (100.0, 2.0), "moe": (1.0, 1.2), "moe_block": (1.0, 1.2),
}  # fmt: skip
"""Start over decoding's coefficient, and pull: a captured graph launches in one go, a prefill
launches kernel by kernel (tens of microseconds each, a layer of experts is dozens of them)."""
PREFILL_DEPARTING: Final[Mapping[str, float]] = {
    "gemm_block": 0.6,
    "moe": 0.4,
    "moe_route": 1.0,
    "launches": 1.0,
    "iteration": 1.2,
}
"""Parts in which engines differ when prefilling, and what holds them."""
CAPTURING: Final = "vllm"
"""The engine that captures pieces of prefills too: it starts at less host work, held less."""
APART: Final = "sglang"
"""The engine that runs waiting prompts in iterations of their own, before it decodes on."""
COMPILED: Final = 0.02
"""Host work of a prefill where an engine runs whole compiled graphs (JetStream, NeuronX)."""
COMPILED_FRONT_S: Final = 0.01
"""What takes a request in, of engines without rows: assumed."""
FUSED: Final = 0.4
"""Host work of routing where it is one call with the experts, over routing in calls of its own."""
TRITON: Final = 2.0
"""Host work of routing in Triton kernels over library calls, where it starts."""
CAPTURED: Final = 0.4
"""Host work of a prefill whose pieces are captured, over that of one that is not."""
EAGER: Final = (1.5, 0.6)
"""Host work of a prefill over the shared constant, where it starts: others, and ``CAPTURING``."""
PER_ENGINE: Final[Mapping[str, float]] = {
    "cluster": 2.0, "mixing": 1.0, "sharing": 0.7, "host_mixing": 0.5, "front_end_s": 0.02,
    "wait_steps": 1.0, "hold": 1.0, "wait_prefills": 0.05, "feed": 0.8,
}  # fmt: skip
HELD: Final[Mapping[str, float]] = {
    "hold": 8.0, "wait_prefills": 3.0, "cluster": 2.0, "mixing": 2.0, "sharing": 2.0,
    "host_mixing": 2.0,
}  # fmt: skip
"""What is worked out is held: ten waves of which one is a burst make half a tenth."""
SHARED_PULL: Final = 2.0
"""What holds the parts' own coefficients: kernels were measured, so they cost what they cost. With
a quarter of it the rows of a few harnesses bent all to where the others were 15 % off (chosen of
0.5, 1, 2 and 5 by the errors of runs and harnesses left out)."""

UNTIMED: Final[Mapping[str, float]] = {"fp32": 0.5, "gemm_compute": 0.6}
"""What holds the parts that no kernel was timed for: products in fp32, and how much slower than in
a burst products run for hours at the chip's power limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What of a row decides its constants; arrays of one length."""

    flags: FloatArray
    """[n, traits] one where the trait holds."""
    drafted: FloatArray
    """Tokens drafted ahead in a step."""
    fused: npt.NDArray[np.bool_]
    """Routing and experts are one call (TensorRT-LLM's kernels for Blackwell, in all engines)."""
    triton: npt.NDArray[np.bool_]
    """Routing and experts are Triton kernels though the engine has calls of its own."""
    captured: npt.NDArray[np.bool_]
    """Prefills replay captured pieces though the engine does not by itself."""
    waves: FloatArray
    """Requests a client sends for each one in flight, of which the first come all at once; 0
    where that is not known."""
    slower: FloatArray
    """[n, 2] ln factors on decoding and prefill of chips that other chips' kernels or a prior
    price, from their published rows."""

    def __len__(self) -> int:
        return len(self.flags)

    def take(self, index: npt.NDArray[Any]) -> Traits:
        """Some of the rows."""
        return Traits(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def of(
        cls,
        engine: Sequence[str],
        chip: Sequence[str],
        apart: Sequence[bool],
        early: Sequence[bool],
        drafted: Sequence[float],
        captured: Sequence[bool],
        fused: Sequence[bool],
        triton: Sequence[bool],
        waves: Sequence[float] | None = None,
        slower: FloatArray | None = None,
    ) -> Traits:
        """From what rows or configurations say."""
        flags = np.stack([
            *(np.array([e == name for e in engine], dtype=float) for name in ENGINES),
            np.array([c.startswith(("h100", "h200", "h800", "gh200", "a100")) for c in chip],
                     dtype=float),
            np.asarray(apart, dtype=float), np.asarray(early, dtype=float),
            (np.asarray(drafted) > 0).astype(float),
        ], axis=1)  # fmt: skip
        said = np.zeros(len(flags)) if waves is None else np.asarray(waves, dtype=float)
        return cls(flags=flags, drafted=np.asarray(drafted, dtype=float),
                   captured=np.asarray(captured, dtype=bool),
                   fused=np.asarray(fused, dtype=bool), triton=np.asarray(triton, dtype=bool),
                   waves=said,
                   slower=np.zeros((len(flags), 2)) if slower is None else slower)  # fmt: skip


def _slots() -> tuple[tuple[str, float, float], ...]:
    """Name, start (logarithm) and pull of every constant."""
    found = [(f"part.{p}", float(np.log(START[p])), UNTIMED.get(p, SHARED_PULL)) for p in PARTS]
    found += [(name, float(np.log(start)), pull) for name, (start, pull) in DEPARTING.items()]
    for p in PREFILLING:
        start, pull = PREFILL_STARTS.get(p, (1.0, SHARED_PULL))
        found += [(f"prefill.{p}", float(np.log(start)), pull)]
    found += [(f"prefill.{e}.all", 0.0, 2.0 if e == CAPTURING else 4.0) for e in ENGINES]
    found += [("prefill.hopper.all", 0.0, 1.6), ("prefill.early.all", 0.0, 0.4)]
    for e in ENGINES:
        for p, pull in PREFILL_DEPARTING.items():
            launched = p in ("launches", "moe_route")
            start = EAGER[e == CAPTURING] if launched else 1.0
            own = 0.3 if launched and e == CAPTURING else pull
            found += [(f"prefill.{e}.{p}", float(np.log(start)), own)]
    found += [(f"{n}.{e}", float(np.log(v)), HELD.get(n, 0.5))
              for n, v in PER_ENGINE.items() for e in ENGINES]  # fmt: skip
    found += [("burst.disagg", 0.0, 0.5), ("burst.unknown", 0.0, 0.5)]
    found += [("drafted.prefill", float(np.log(1.3)), 0.5)]
    found += [("captured.prefill", float(np.log(CAPTURED)), 1.0)]
    found += [("fused.moe_route", float(np.log(FUSED)), 1.0)]
    found += [("triton.moe_route", float(np.log(TRITON)), 1.0)]
    found += [("acceptance", float(np.log(0.68)), 6.0), ("transfer", float(np.log(2e10)), 1.0)]
    return tuple(found)


SLOTS: Final = _slots()
_AT: Final = {name: i for i, (name, _, _) in enumerate(SLOTS)}


def fuses(chip: str, attention_ranks: float) -> bool:
    """Whether routing and experts run as one call: on Blackwell, where ranks share all tokens."""
    return chip.startswith(("b200", "b300", "gb200", "gb300")) and attention_ranks <= 1


def start_of() -> FloatArray:
    """Where every constant starts, as logarithms."""
    return np.array([s for _, s, _ in SLOTS])


def pull_of() -> FloatArray:
    """How strongly each is held there, in errors of ln(time) a unit of its logarithm."""
    return np.array([p for _, _, p in SLOTS])


def constants_of(vector: FloatArray, traits: Traits) -> Constants:
    """The constants of rows with these traits."""
    n = len(PARTS)
    base = np.tile(vector[:n], (len(traits), 1))
    for name in DEPARTING:
        *words, p = name.split(".")
        holds = np.prod([traits.flags[:, TRAITS.index(w)] for w in words], axis=0)
        base[:, PARTS.index(p)] += holds * vector[_AT[name]]
    prefill = base.copy()
    for p in PREFILLING:
        prefill[:, PARTS.index(p)] += vector[_AT[f"prefill.{p}"]]
    engines = traits.flags[:, : len(ENGINES)]
    for j, e in enumerate(ENGINES):
        for p in PREFILL_DEPARTING:
            prefill[:, PARTS.index(p)] += engines[:, j] * vector[_AT[f"prefill.{e}.{p}"]]
    chip_parts = [i for i, p in enumerate(PARTS) if p not in HOST_PARTS]
    for e in (*ENGINES, "hopper", "early"):
        along = traits.flags[:, TRAITS.index(e)] * vector[_AT[f"prefill.{e}.all"]]
        prefill[:, chip_parts] += along[:, None]
    known = engines.sum(1) > 0
    per: dict[str, FloatArray] = {}
    for name in PER_ENGINE:
        own = np.array([vector[_AT[f"{name}.{e}"]] for e in ENGINES])
        per[name] = np.exp(np.where(known, engines @ own, own.mean()))
    host = [PARTS.index(p) for p in HOST_PARTS]
    prefill[:, host] += np.where(traits.drafted > 0, vector[_AT["drafted.prefill"]], 0.0)[:, None]
    prefill[:, host] += np.where(known, 0.0, np.log(COMPILED))[:, None]
    routing = np.where(traits.fused, vector[_AT["fused.moe_route"]], 0.0)
    routing = routing + np.where(traits.triton, vector[_AT["triton.moe_route"]], 0.0)
    prefill[:, PARTS.index("moe_route")] += routing
    prefill[:, host] += np.where(traits.captured, vector[_AT["captured.prefill"]], 0.0)[:, None]
    # What a chip's own rows say of it slows the chip; its host launches as any other's.
    base[:, chip_parts] += traits.slower[:, :1]
    prefill[:, chip_parts] += traits.slower[:, 1:]
    return Constants(
        parts=np.exp(base), prefill_parts=np.exp(prefill),
        cluster=per["cluster"], mixing=per["mixing"],
        sharing=np.minimum(per["sharing"], 1.0),
        host_mixing=per["host_mixing"],
        tokens_per_step=_tokens_per_step(float(np.exp(vector[_AT["acceptance"]])), traits.drafted),
        front_end_s=np.where(known, per["front_end_s"], COMPILED_FRONT_S),
        wait_steps=per["wait_steps"],
        hold=per["hold"],
        wait_prefills=per["wait_prefills"] * _burst_share(vector, traits),
        mixes=1.0 - engines[:, ENGINES.index(APART)], feed=per["feed"],
        transfer_bytes_per_s=np.full(len(traits), np.exp(vector[_AT["transfer"]])),
    )  # fmt: skip


def _burst_share(vector: FloatArray, traits: Traits) -> FloatArray:
    """Share of requests that come all at once, over the usual one."""
    apart = traits.flags[:, TRAITS.index("disagg")] > 0
    fitted = np.where(apart, vector[_AT["burst.disagg"]], vector[_AT["burst.unknown"]])
    known = traits.waves > 0
    return np.asarray(np.where(known, WAVES / np.maximum(traits.waves, 1.0), np.exp(fitted)))


def _tokens_per_step(acceptance: float, drafted: FloatArray) -> FloatArray:
    """Tokens a step yields when each drafted one is kept with the same chance, after the last."""
    kept = min(acceptance, 1.0) ** np.arange(1, MOST_DRAFTED + 1)
    yields = 1.0 + np.concatenate([[0.0], np.cumsum(kept)])
    return np.asarray(yields[np.minimum(drafted, MOST_DRAFTED).astype(int)])


def to_json(vector: FloatArray) -> dict[str, float]:
    """Constants by name (not logarithms)."""
    return {name: float(f"{np.exp(v):.5g}") for (name, _, _), v in zip(SLOTS, vector, strict=True)}


def from_json(raw: Mapping[str, float]) -> FloatArray:
    """The inverse of :func:`to_json`; a constant the file lacks starts where the fit starts."""
    return np.array([np.log(float(raw[n])) if n in raw else start for n, start, _ in SLOTS])


def profiled_of() -> FloatArray:
    """Constants for chips whose tables are profiles of an engine's own layers: all as timed."""
    vector = start_of()
    for name, _, _ in SLOTS:
        if name.startswith("prefill."):
            vector[_AT[name]] = 0.0
    vector[_AT["part.elementwise"]] = 0.0
    return vector
