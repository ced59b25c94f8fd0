"""torch's process group over ``Collectives``: what DDP, FSDP2, TP, PP, EP and DeviceMesh call.

A means to run and validate schedules and to emulate networks on CPUs. Every call is served, or
refused by name. Collectives are done when the call returns; sends and receives go on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist

from weftline.errors import InputError
from weftline.fabric.schedule import Collective
from weftline.runtime.group.collectives import Collectives
from weftline.runtime.group.kernel import flow
from weftline.runtime.group.letters import Mail
from weftline.runtime.group.machine import now_ns
from weftline.runtime.group.options import GroupOptions, asked
from weftline.runtime.group.sharing import Shared
from weftline.runtime.group.tensors import (
    NAME,
    Dense,
    Denses,
    adds,
    as_numbers,
    fold_of,
    listed,
    on_cpu,
    refused,
    same_size,
    split,
)  # fmt: skip

__all__ = ["NAME", "WeftlineGroup", "prepare", "register"]

_SLICE: Final = 1 << 18
"""Elements of what is folded by torch at a time."""
_EXCHANGE: Final = -1
"""Tag of the messages of an all-to-all."""
_c10d: Any = torch._C._distributed_c10d


def _done(value: Any) -> Any:
    """Work that is over, with what it gives."""
    future: Any = torch.futures.Future()
    future.set_result(value)
    return _c10d._create_work_from_future(future)


class _Later(_c10d.Work):
    """Messages on their way."""

    def __init__(
        self, group: WeftlineGroup, mails: Sequence[Mail], end: Callable[[], None]
    ) -> None:
        super().__init__()
        self.group, self.mails, self.end, self.over = group, mails, end, False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Until all have been sent or received."""
        seconds = timeout.total_seconds() if timeout else None
        for mail in self.mails:
            self.group.ranks_.letters.wait(mail, seconds or None)
        if not self.over:
            self.over = True
            self.end()
        return True

    def is_completed(self) -> bool:
        """Whether they have, as far as can be said now."""
        if not self.over:
            self.group.ranks_.letters.progress()
            if all(mail.done for mail in self.mails):
                self.wait()
        return self.over

    def is_success(self) -> bool:
        """The same: what fails raises."""
        return self.over

    def get_future(self) -> Any:
        """A future that is done."""
        self.wait()
        future: Any = torch.futures.Future()
        future.set_result(None)
        return future


class WeftlineGroup(_c10d.ProcessGroup):
    """One group on one rank."""

    def __init__(self, ranks: Collectives) -> None:
        super().__init__(ranks.rank, ranks.ranks)
        self.ranks_ = ranks
        self.me, self.many = ranks.rank, ranks.ranks
        self.shared: dict[int, Shared] = {}
        """Tensors in memory that all ranks reach, by address."""
        self._name, self._about = ranks.name, NAME
        self._gathered: list[Any] | None = None

    # --- names ------------------------------------------------------------------------------------

    def getBackendName(self) -> str:  # noqa: N802
        """Torch's question."""
        return NAME

    name = getBackendName

    def getGroupName(self) -> str:  # noqa: N802
        """The name DeviceMesh and functional collectives find it by."""
        return self._name

    def setGroupName(self, name: str) -> None:  # noqa: N802
        """Torch names it after it was made."""
        self._name = name

    _set_group_name = setGroupName

    @property
    def group_name(self) -> str:
        """The same, as newer torch asks."""
        return self._name

    def getGroupDesc(self) -> str:  # noqa: N802
        """What it is for."""
        return self._about

    def setGroupDesc(self, text: str) -> None:  # noqa: N802
        """Torch describes it after it was made."""
        self._about = text

    _set_group_desc = setGroupDesc

    @property
    def group_desc(self) -> str:
        """The same, as newer torch asks."""
        return self._about

    # --- reductions -------------------------------------------------------------------------------

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:
        """Each tensor becomes the sum (or what ``opts`` says) over all ranks."""
        op = getattr(opts, "reduceOp", dist.ReduceOp.SUM)
        for tensor in listed(tensors):
            with Dense(tensor) as dense:
                self._reduce(dense, op)
        return _done(tensors)

    def allreduce_coalesced(self, tensors: Any, opts: Any = None) -> Any:
        """One after the other."""
        return self.allreduce(tensors, opts)

    def reduce(self, tensors: Any, opts: Any) -> Any:
        """The root's tensor becomes the sum; the others' stay."""
        op = getattr(opts, "reduceOp", dist.ReduceOp.SUM)
        for tensor in listed(tensors):
            total = tensor.clone(memory_format=torch.contiguous_format)
            self._reduce(total, op)
            if self.me == opts.rootRank:
                tensor.copy_(total)
        return _done(tensors)

    def _reduce(self, tensor: torch.Tensor, op: Any) -> None:
        """In place, of a dense tensor."""
        fold = fold_of(op)
        if fold is None or (op == dist.ReduceOp.BOR and tensor.dtype == torch.bool):
            plain, kind = as_numbers(tensor)
            known = self.shared.get(plain.data_ptr())
            if known is not None and known.holds(plain) and self.ranks_.options.algorithm is None:
                self.ranks_.shared_sum(known.addresses, plain.numel(), plain.element_size(), kind)
            else:
                self._run("all-reduce", plain, plain, plain.numel(), kind)
            if tensor.dtype == torch.bool:
                plain.ne_(0)
            self._average(tensor, op)
            return
        flat = tensor.view(-1)
        for part in flat.split(_SLICE):
            every = part.new_empty((self.many, part.numel()))
            self._run("all-gather", part, every, part.numel())
            total = every[0]
            for other in every[1:]:
                total = fold(total, other)
            part.copy_(total)

    def _average(self, tensor: torch.Tensor, op: Any) -> None:
        if op == dist.ReduceOp.AVG:
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.div_(self.many)
            else:
                tensor.div_(self.many, rounding_mode="trunc")

    def reduce_scatter_single(self, output: Any, given: Any, opts: Any = None) -> Any:
        """``output`` becomes this rank's part of the sum of ``given``."""
        op = getattr(opts, "reduceOp", dist.ReduceOp.SUM)
        same_size(given, output, self.many, "reduce-scatter")
        with Dense(output) as dense:
            if fold_of(op) is None and given.dtype != torch.bool:
                plain, kind = as_numbers(given.contiguous())
                mine, _ = as_numbers(dense)
                self._run("reduce-scatter", plain, mine, mine.numel(), kind)
                self._average(dense, op)
            else:
                whole = given.clone(memory_format=torch.contiguous_format)
                self._reduce(whole, op)
                dense.view(-1).copy_(whole.view(self.many, -1)[self.me])
        return _done(output)

    _reduce_scatter_base = reduce_scatter_single

    def reduce_scatter_single_coalesced(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """One after the other."""
        for output, one in zip(outputs, given, strict=True):
            self.reduce_scatter_single(output, one, opts)
        return _done(outputs)

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def reduce_scatter(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """The same, the parts given as a list."""
        for output, parts in zip(outputs, given, strict=True):
            self.reduce_scatter_single(output, torch.cat([p.reshape(-1) for p in parts]), opts)
        return _done(outputs)

    # --- gathering --------------------------------------------------------------------------------

    def all_gather_single(self, output: Any, given: Any, opts: Any = None) -> Any:
        """``output`` becomes all ranks' tensors, one after the other."""
        same_size(output, given, self.many, "all-gather")
        with Dense(output) as dense:
            self._run("all-gather", given.contiguous(), dense, given.numel())
        return _done(output)

    _allgather_base = all_gather_single

    def all_gather_single_coalesced(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """One after the other."""
        for output, one in zip(outputs, given, strict=True):
            self.all_gather_single(output, one)
        return _done(outputs)

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def allgather(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """The same into a list of tensors; they may differ in size."""
        for parts, one in zip(outputs, given, strict=True):
            if len({p.numel() for p in parts}) > 1:
                for root, part in enumerate(parts):
                    if root == self.me:
                        part.copy_(one)
                    with Dense(part) as dense:
                        self._run("broadcast", dense, dense, dense.numel(), root=root)
                continue
            whole = one.new_empty((self.many, one.numel()))
            self._run("all-gather", one.contiguous(), whole, one.numel())
            for part, found in zip(parts, whole, strict=True):
                part.copy_(found.view(part.shape))
        return _done(outputs)

    def allgather_coalesced(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """Several tensors: ``outputs[rank][i]``."""
        for i, one in enumerate(given):
            self.allgather([[parts[i] for parts in outputs]], [one])
        return _done(outputs)

    def broadcast(self, tensors: Any, opts: Any) -> Any:
        """All get the root's."""
        for tensor in listed(tensors):
            with Dense(tensor) as dense:
                self._run("broadcast", dense, dense, dense.numel(), root=opts.rootRank)
        return _done(tensors)

    def scatter(self, outputs: Any, given: Any, opts: Any) -> Any:
        """Each gets its tensor of the root's list."""
        output = outputs[0]
        with Dense(output) as dense:
            whole = dense
            if self.me == opts.rootRank:
                whole = torch.cat([p.contiguous().view(-1) for p in given[0]])
                same_size(whole, dense, self.many, "scatter")
            self._move(self.ranks_.scatter(opts.rootRank), whole, dense)
        return _done(outputs)

    def gather(self, outputs: Any, given: Any, opts: Any) -> Any:
        """The root gets all."""
        one = given[0].contiguous()
        whole = one
        if self.me == opts.rootRank:
            whole = one.new_empty((self.many, one.numel()))
        self._move(self.ranks_.gather(opts.rootRank), one, whole, one.numel())
        if self.me == opts.rootRank:
            for part, found in zip(outputs[0], whole, strict=True):
                part.copy_(found.view(part.shape))
        return _done(outputs)

    def barrier(self, opts: Any = None) -> Any:
        """All have come."""
        self.ranks_.barrier()
        return _done(None)

    def monitored_barrier(self, timeout: Any = None, wait_all_ranks: bool = False) -> None:
        """A barrier; who does not come is named by every one of ours."""
        del timeout, wait_all_ranks
        self.ranks_.barrier()

    # --- messages ---------------------------------------------------------------------------------

    def send(self, tensors: Any, peer: int, tag: int = 0) -> Any:
        """To one rank."""
        mails = []
        for tensor in listed(tensors):
            dense = tensor.detach().contiguous()
            mails.append(self._post(dense, peer, tag))
        return _Later(self, mails, lambda: None)

    def recv(self, tensors: Any, peer: int, tag: int = 0) -> Any:
        """From one rank."""
        pairs = []
        mails = []
        for tensor in listed(tensors):
            dense = tensor if tensor.is_contiguous() else torch.empty_like(
                tensor, memory_format=torch.contiguous_format
            )  # fmt: skip
            pairs.append((tensor, dense))
            mails.append(self._await(dense, peer, tag))

        def end() -> None:
            for tensor, dense in pairs:
                if dense is not tensor:
                    tensor.copy_(dense)

        return _Later(self, mails, end)

    def recv_anysource(self, tensors: Any, tag: int = 0) -> Any:
        """Refused by name."""
        raise refused("a receive from any rank", "name the rank: `src=`")

    def all_to_all_single(
        self, output: Any, given: Any, output_sizes: Any = (), input_sizes: Any = (),
        opts: Any = None,
    ) -> Any:  # fmt: skip
        """Rows of ``given`` to each rank, rows of each into ``output``, as many as said."""
        sends = split(given.contiguous(), input_sizes, self.many)
        with Dense(output) as dense:
            self._exchange(split(dense, output_sizes, self.many), sends)
        return _done(output)

    alltoall_base = all_to_all_single

    def alltoall(self, outputs: Any, given: Any, opts: Any = None) -> Any:
        """The same with a tensor a rank."""
        with Denses(outputs) as dense:
            self._exchange(dense, [g.contiguous() for g in given])
        return _done(outputs)

    def _exchange(self, outputs: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> None:
        alike = len({t.numel() for t in (*outputs, *given)}) == 1
        if self.ranks_.options.algorithm is not None and alike and given[0].numel():
            whole = torch.cat([g.reshape(-1) for g in given])
            found = torch.empty_like(whole)
            self._run("all-to-all", whole, found, given[0].numel())
            for output, part in zip(outputs, found.view(self.many, -1), strict=True):
                output.copy_(part.view(output.shape))
            return
        outputs[self.me].copy_(given[self.me].view(outputs[self.me].shape))
        others = [(self.me + d) % self.many for d in range(1, self.many)]
        mails = [self._await(outputs[r], r, _EXCHANGE) for r in others if outputs[r].numel()]
        mails += [self._post(given[r], r, _EXCHANGE) for r in others if given[r].numel()]
        for mail in mails:
            self.ranks_.letters.wait(mail)

    def _post(self, dense: torch.Tensor, peer: int, tag: int) -> Mail:
        size = dense.numel() * dense.element_size()
        return self.ranks_.letters.send(peer, tag, dense.data_ptr(), size, dense)

    def _await(self, dense: torch.Tensor, peer: int, tag: int) -> Mail:
        size = dense.numel() * dense.element_size()
        return self.ranks_.letters.receive(peer, tag, dense.data_ptr(), size, dense)

    # --- the rest of the surface ------------------------------------------------------------------

    def _start_coalescing(self, device: Any) -> None:
        self._gathered = []

    def _end_coalescing(self, device: Any) -> Any:
        self._gathered = None
        return _done(None)

    def _set_sequence_number_for_group(self) -> None:
        """Collectives are counted by the engine."""

    def _get_sequence_number_for_group(self) -> int:
        return self.ranks_.engine.calls

    def set_timeout(self, timeout: timedelta) -> None:
        """How long to wait for a rank."""
        self.ranks_.engine.timeout_s = timeout.total_seconds()
        self.ranks_.letters.timeout_s = timeout.total_seconds()

    _set_default_timeout = set_timeout

    def shutdown(self) -> None:
        """Let go of connections."""
        self.ranks_.close()

    abort = shutdown

    def merge_remote_group(self, *_: Any, **__: Any) -> Any:
        """Refused by name."""
        raise refused("merging groups", "make a group of all ranks")

    # --- running ----------------------------------------------------------------------------------

    def _run(
        self, what: Collective, given: torch.Tensor, out: torch.Tensor, elements: int,
        kind: int | None = None, root: int = 0,
    ) -> None:  # fmt: skip
        """One collective of the group's own kind; ``elements`` of a segment."""
        if self.many == 1:
            if out.data_ptr() != given.data_ptr():
                out.view(-1).copy_(given.view(-1))
            return
        many = self.many if what in ("all-gather", "reduce-scatter") else 1
        program = self.ranks_.program(what, elements * given.element_size() * many, root)
        self._move(program, given, out, elements, kind)

    def _move(
        self, program: Any, given: torch.Tensor, out: torch.Tensor, elements: int | None = None,
        kind: int | None = None,
    ) -> None:  # fmt: skip
        on_cpu(given)
        self.ranks_.run(
            program, given.data_ptr(), out.data_ptr(),
            out.numel() if elements is None else elements, given.element_size(), kind or 0,
        )  # fmt: skip

    def execute(self, schedule: Any, given: torch.Tensor, out: torch.Tensor) -> None:
        """Run this very schedule of the fabric room on dense tensors; sums, if it reduces.

        ``given`` and ``out`` are one tensor for all-reduce and broadcast. Elements of a segment:
        the input's of an all-gather, the output's of a reduce-scatter, the N-th part of either of
        an all-to-all, else the tensor's.
        """
        plain, kind = as_numbers(given) if adds(schedule.collective) else (given, 0)
        to, _ = as_numbers(out) if adds(schedule.collective) else (out, 0)
        size = min(plain.numel(), to.numel())
        if schedule.collective == "all-to-all":
            size //= self.many
        self.ranks_.execute(
            schedule, plain.data_ptr(), to.data_ptr(), size, plain.element_size(), kind
        )

    def share(self, tensor: torch.Tensor) -> bool:
        """Move a dense tensor's storage into memory that all ranks reach, where it stays.

        Sums of it then need no copy. All ranks call it for tensors of one size; False, on all,
        where a rank has no room in its shared memory or they are on several hosts.
        """
        return Shared.of(self, tensor)


def _make(given: Any, more: Any) -> WeftlineGroup:
    """Torch's call for a new group."""
    options = more if isinstance(more, GroupOptions) else asked()
    ranks = Collectives(
        given.store, given.group_rank, given.group_size, name=given.group_id,
        timeout=given.timeout, options=options, members=list(given.global_ranks_in_group) or None,
    )  # fmt: skip
    return WeftlineGroup(ranks)


def register() -> None:
    """Make the backend known to torch. Raises InputError on systems without shared memory files."""
    import os

    if not hasattr(os, "memfd_create"):
        raise InputError("process group `weftline` needs Linux", hint="--backend gloo")
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _make, extended_api=True, devices=["cpu"])


def prepare() -> None:
    """Compile what groups run, so that processes forked from this one have it."""
    alone = Collectives(
        _c10d.HashStore(), 0, 1, name="prepare", timeout=timedelta(seconds=60),
        options=GroupOptions(),
    )  # fmt: skip
    alone.barrier()
    word = torch.zeros(1)
    alone.letters.receive(0, 0, word.data_ptr(), 4, word)
    alone.letters.wait(alone.letters.send(0, 0, word.data_ptr(), 4, word))
    # What an emulated network adds: no bytes over no link.
    words, reals = np.zeros(3, np.int64), np.zeros(1)
    flow(0, 0, words, 0, 0, 0, words, reals, reals, 0, now_ns())
