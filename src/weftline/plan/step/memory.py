"""Memory of one chip, on its fullest pipeline stage, for many layouts at once.

Weights, gradients and optimizer states by what the framework keeps; activations by what backward
reads again (:mod:`weftline.plan.step.saved`); and what stands beside all of them at a stage's
highest moment: the gradients of a layer's widest operator, or the logits at the loss.

Every stage is counted, and a layout has the parts of the one that holds most: the first keeps the
most micro-batches, a middle one may have more layers, the last has the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from weftline.model import Model
from weftline.plan.step.columns import IntArray, Layouts
from weftline.plan.step.compiled import (
    RECOMPUTE_FULL,
    RECOMPUTE_NONE,
    RECOMPUTE_SELECTIVE,
    split_layers,
)
from weftline.plan.step.constants import FloatArray
from weftline.plan.step.frameworks import Framework
from weftline.plan.step.saved import saved_values
from weftline.plan.step.states import FIRST, LAST, MIDDLE, StageStates, stage_states

__all__ = ["Counted", "Memory", "count_memory", "fit_recompute", "memory_of", "recomputed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one chip of the fullest stage, one entry a layout; the parts of the chip add up."""

    total_bytes: FloatArray
    weights_bytes: FloatArray
    gradients_bytes: FloatArray
    optimizer_bytes: FloatArray
    activations_bytes: FloatArray
    """What is kept from forward to backward."""
    working_bytes: FloatArray
    """What stands beside it: buffers for gradients, and while one layer is backward the gradients
    of its activations and what is computed again."""
    logits_bytes: FloatArray
    """What stands beside it at the loss, where that is the highest moment."""
    overhead_bytes: FloatArray
    host_bytes: FloatArray
    """In host memory, for one chip; not in the total."""

    @property
    def allocated_bytes(self) -> FloatArray:
        """Of the total, what tensors take: without driver, communicators and the allocator's
        holes."""
        return self.total_bytes - self.overhead_bytes

    def take(self, index: IntArray) -> Memory:
        """Some of the layouts."""
        return Memory(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class _Moment:
    """When a stage may hold most: in a layer's backward, or at the loss."""

    stage: int
    states: StageStates
    held: FloatArray
    """Layers times micro-batches in flight."""
    embedding: FloatArray
    beside: FloatArray
    """What stands beside all that is kept."""
    at_loss: bool
    """Whether nothing is computed again then."""

    def take(self, index: IntArray) -> _Moment:
        """Some of the layouts."""
        return _Moment(
            self.stage, self.states.take(index), self.held[index], self.embedding[index],
            self.beside[index], self.at_loss,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Bytes of layouts by moment, linear in the share of layers computed again, [n] each."""

    moments: tuple[_Moment, ...]
    context: FloatArray
    lossy: float
    """One, and the share of activations, gradients and logits that the allocator loses."""
    layer: FloatArray
    """One layer's activations of one micro-batch, kept whole."""
    selected: FloatArray
    """The same less what selective recomputation computes again."""
    bare: FloatArray
    """The layer's input alone: what full recomputation keeps."""
    offloaded: FloatArray
    """The layer's input where it waits in host memory instead, else 0."""
    again: FloatArray
    """What of a layer stands whole while it is computed again."""
    stage_layers: FloatArray

    def kept(self, layouts: Layouts) -> tuple[FloatArray, FloatArray]:
        """What a layer keeps of a micro-batch, and what of one layer comes back in backward."""
        selective = layouts.recompute == RECOMPUTE_SELECTIVE
        whole = np.where(selective, self.selected, self.layer)
        kept = whole - layouts.recompute_share * (whole - self.bare)
        again = np.where(selective, self.layer - self.selected, 0.0)
        return kept, np.where(layouts.recompute_share > 0, self.again, again)

    def fixed(self, moment: _Moment) -> FloatArray:
        """What a stage holds whatever its activations."""
        return self.context + moment.states.total + (self.lossy - 1) * moment.states.gradients

    def take(self, index: IntArray) -> Counted:
        """Some of the layouts."""
        own = ("context", "layer", "selected", "bare", "offloaded", "again", "stage_layers")
        return replace(
            self, moments=tuple(m.take(index) for m in self.moments),
            **{name: getattr(self, name)[index] for name in own},
        )  # fmt: skip

    def totals(self, layouts: Layouts) -> FloatArray:
        """Bytes at every moment, [3, n]."""
        kept, again = self.kept(layouts)
        return np.stack(
            [
                self.fixed(m)
                + self.lossy
                * (kept * m.held + m.embedding + (m.beside if m.at_loss else m.beside + again))
                for m in self.moments
            ]
        )

    def memory(self, layouts: Layouts) -> Memory:
        """The parts of the fullest stage of every layout, at its highest moment."""
        moments = self.at_moments(layouts)
        highest = np.argmax(self.totals(layouts), axis=0)
        return Memory(**{
            f.name: np.choose(highest, [getattr(m, f.name) for m in moments])
            for f in fields(Memory)
        })  # fmt: skip

    def at_moments(self, layouts: Layouts) -> tuple[Memory, ...]:
        """The parts of the first, a middle and the last stage, each at its own highest moment."""
        kept, again = self.kept(layouts)
        nothing = np.zeros(len(layouts))
        found = []
        for m in self.moments:
            held, states = kept * m.held + m.embedding, m.states
            moved = m.beside if m.at_loss else m.beside + again
            allocated = (
                states.weights + states.gradients + states.optimizer + states.buffers + held + moved
            )
            overhead = self.context + (self.lossy - 1) * (held + moved + states.gradients)
            found.append(Memory(
                total_bytes=allocated + overhead,
                weights_bytes=states.weights + nothing,
                gradients_bytes=states.gradients + nothing,
                optimizer_bytes=states.optimizer + nothing,
                activations_bytes=held,
                working_bytes=states.buffers + (nothing if m.at_loss else moved),
                logits_bytes=moved if m.at_loss else nothing,
                overhead_bytes=overhead,
                host_bytes=states.host + layouts.recompute_share * self.offloaded * m.held,
            ))  # fmt: skip
        return tuple(found)


def count_memory(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int, dropout: bool = False,
    middle_stage: int = MIDDLE,
) -> Counted:  # fmt: skip
    """What layouts hold at every moment that can be the highest, whatever is computed again.

    Of the stages between first and last the second holds the most micro-batches; ``middle_stage``
    asks for another of them.
    """
    lay = layouts
    saved = saved_values(model, frame, seq_len, dropout=dropout)
    tokens = lay.micro_batch * seq_len / lay.cp
    split = lay.tp if frame.sequence_parallel else np.ones_like(lay.tp)
    sharded, sequence = tokens / lay.tp, tokens / split
    middle, edge = split_layers(float(len(model.layers)), lay.pp)
    ends = np.where(lay.pp > 1, edge, middle)
    working = sharded * saved.working
    first, between, last = stage_states(model, frame, lay)
    early, late = _in_flight(lay, FIRST), _in_flight(lay, lay.pp - 1)
    embedding = sequence * model.hidden * (1.0 if dropout else 0.0) * early
    # A chunk's output, and what the pipeline keeps of it.
    sent = np.where(lay.pp > 1, frame.stage_tensors * saved.residual * sequence * lay.vp, 0.0)
    alone_embedding = np.where(lay.pp > 1, 0.0, embedding)
    logits = _logits(model, frame, lay, tokens, sequence)
    inner = np.where(lay.pp > 2, middle * _in_flight(lay, middle_stage), 0.0)
    alone = lay.tp * lay.cp * lay.dp * lay.pp == 1
    layer = sharded * (saved.sharded + saved.attention) + sequence * saved.sequence
    return Counted(
        moments=(
            _Moment(FIRST, first, ends * early, embedding + sent * early, working, at_loss=False),
            _Moment(MIDDLE, between, inner, sent * inner / middle, working, at_loss=False),
            _Moment(LAST, last, ends * late, alone_embedding, logits, at_loss=True),
        ),
        context=frame.context_bytes * np.where(alone, frame.alone_share, 1.0),
        lossy=1 + frame.fragmentation,
        layer=layer,
        again=np.minimum(layer, working) if frame.rematerialises else layer,
        selected=sharded * (saved.sharded - saved.dropped_sharded)
        + sequence * (saved.sequence - saved.dropped_sequence),
        bare=sequence * (0.0 if frame.offload_inputs else saved.residual),
        offloaded=sequence * (saved.residual if frame.offload_inputs else 0.0),
        stage_layers=middle,
    )


def _logits(
    model: Model, frame: Framework, lay: Layouts, tokens: FloatArray, sequence: FloatArray
) -> FloatArray:
    """What stands at the loss: logits and their gradients, input and output of the last norm, and
    where the sequence is split, the gathered input of the last product and its gradient."""
    gathered = np.where(lay.tp > 1, 2.0, 1.0) if frame.sequence_parallel else 1.0
    width = frame.value_bytes * model.hidden
    return tokens * (model.vocab / lay.tp * frame.logits_bytes + width * gathered) + (
        2 * width * sequence
    )


def memory_of(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int, dropout: bool = False
) -> Memory:
    """Bytes on one chip of the fullest stage for every layout."""
    return count_memory(model, frame, layouts, seq_len=seq_len, dropout=dropout).memory(layouts)


def _in_flight(lay: Layouts, stage: FloatArray | int) -> FloatArray:
    """Micro-batches whose activations a stage holds at most.

    1F1B: p - i on stage i. Interleaved: 2 (p - 1 - i) + (v - 1) p + 1 chunks of 1/v
    (arXiv:2104.04473, section 2.2, counted as Megatron-LM's warm-up does). Never more than there
    are.
    """
    plain = lay.pp - stage
    chunks = 2 * (lay.pp - 1 - stage) + (lay.vp - 1) * lay.pp + 1
    return np.minimum(np.where(lay.vp > 1, chunks / lay.vp, plain), lay.num_micro_batches)


def fit_recompute(
    model: Model, frame: Framework, layouts: Layouts, *, seq_len: int, capacity_bytes: float
) -> Layouts:
    """Recompute as little as it takes to fit, and no more.

    Layouts that say how much is computed again stay as they are, as do those that fit. The others
    drop what selective recomputation drops, where that is enough, else the least whole number of
    layers a stage: all of them where not even that fits.
    """
    counted = count_memory(model, frame, layouts, seq_len=seq_len)
    return recomputed(layouts, counted, capacity_bytes=capacity_bytes)


def recomputed(layouts: Layouts, counted: Counted, *, capacity_bytes: float) -> Layouts:
    """The second half of :func:`fit_recompute`: what depends on the capacity."""
    x, lossy = counted, counted.lossy
    share = np.zeros(len(layouts))
    selected = np.ones(len(layouts), dtype=bool)
    fits = np.ones(len(layouts), dtype=bool)
    gain = np.maximum(x.layer - x.bare, 1e-9)
    # Every moment is linear in the share, so the least share is the largest that any asks.
    for m in x.moments:
        budget = (capacity_bytes - x.fixed(m)) / lossy - m.embedding - m.beside
        again = 0.0 if m.at_loss else 1.0
        fits &= x.layer * m.held <= budget
        selected &= x.selected * m.held + again * (x.layer - x.selected) <= budget
        over = x.layer * m.held + x.again * again - budget
        share = np.maximum(share, over / (gain * np.maximum(m.held, 1e-9)))
    share = np.minimum(np.ceil(share * x.stage_layers - 1e-9) / x.stage_layers, 1.0)
    free: npt.NDArray[np.bool_] = (layouts.recompute == RECOMPUTE_NONE) & ~fits
    cheap = free & selected & (x.selected < x.layer)
    full = free & ~cheap
    recompute = np.where(full, float(RECOMPUTE_FULL), layouts.recompute)
    return replace(
        layouts,
        recompute=np.where(cheap, float(RECOMPUTE_SELECTIVE), recompute),
        recompute_share=np.where(full, share, layouts.recompute_share),
    )
