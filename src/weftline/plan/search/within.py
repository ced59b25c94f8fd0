"""A plan for the hosts that are there: some missing, some slow, the old plan as the start.

The hosts are taken fastest first, so that so many of them cost the slowest one's factor on all that
chips compute. Sizes: all of the equally fast, and the largest of the forms 2^i, 3 * 2^i, 5 * 2^i
and 7 * 2^i below, since what the batch and the layers can be split by is mostly such a number. For
every size the old plan's degrees are tried first (tp, cp, pp, ep: only data parallelism changes,
the model is cut as before), then all layouts; another cut is taken where it is faster by more than
``UNDECIDED``. Where a smaller size is as fast as a larger one, the fewer chips are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from weftline.errors import InputError, NoFeasiblePlanError
from weftline.plan.search.search import UNDECIDED
from weftline.plan.search.train import plan_train
from weftline.spec import Job, Plan
from weftline.spec.hosts_there import HostsThere
from weftline.spec.step_parts import slowed

KEPT = ("tp", "cp", "pp", "ep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One number of hosts with its plan, and what its slowest host makes of the step."""

    hosts: int
    plan: Plan
    factor: float
    """Step time over that of equal hosts."""
    as_before: bool
    """Whether the model is cut as in the old plan."""

    @property
    def step_s(self) -> float:
        """Predicted step with the slow hosts in it."""
        return self.plan.estimates["step_time"].value * self.factor


def sizes_of(there: HostsThere) -> list[int]:
    """Numbers of hosts to try, most first."""
    factors = [there.slow.get(host, 1.0) for host in there.sorted_hosts()]
    ends = [n for n in range(1, len(factors) + 1)
            if n == len(factors) or factors[n] > factors[n - 1]]  # fmt: skip
    found = set()
    for end in ends:
        found |= {end} | {max(m << i for i in range(end.bit_length()) if m << i <= end)
                          for m in (1, 3, 5, 7) if m <= end}  # fmt: skip
    return sorted(found, reverse=True)


def plan_within(
    job: Job, there: HostsThere, old: Plan | None = None, *,
    progress: Callable[[str, float], None] | None = None,
) -> Plan:  # fmt: skip
    """The fastest plan for ``job`` on hosts that are there; says what it leaves out and why.

    Raises NoFeasiblePlanError where no number of them can run it, InputError for an unknown chip or
    an old plan of another model.
    """
    if old is not None and old.job.model != job.model:
        raise InputError(f"the plan before is of {old.job.model}, the job of {job.model}",
                         where="--within")  # fmt: skip
    sizes = sizes_of(there)
    found: list[Candidate] = []
    miss: NoFeasiblePlanError | None = None
    for done, hosts in enumerate(sizes):
        if progress is not None:
            progress(f"{hosts} hosts", done / len(sizes))
        try:
            found.append(_of_size(job, there, old, hosts))
        except NoFeasiblePlanError as error:
            miss = miss or error
    if not found:
        raise miss or NoFeasiblePlanError("no number of these hosts can run the job")
    best = min(found, key=lambda c: c.step_s)
    close = [c for c in found if c.step_s <= best.step_s * (1 + UNDECIDED)]
    chosen = min(close, key=lambda c: c.hosts)
    return replace(chosen.plan, why=(*_reasons(chosen, found, there, old), *chosen.plan.why))


def _of_size(job: Job, there: HostsThere, old: Plan | None, hosts: int) -> Candidate:
    chips = hosts * there.chips_per_host
    asked = replace(job, accelerators=(there.chip,), chips=chips, max_chips=None)
    slowest = there.slow.get(there.sorted_hosts()[hosts - 1], 1.0)
    plans: list[tuple[Plan, bool]] = []
    miss: NoFeasiblePlanError | None = None
    kept = {} if old is None else {name: getattr(old.layout, name) for name in KEPT}
    for layout, as_before in ((kept, True), ({}, False)):
        if as_before and not kept:
            continue
        try:
            tried = replace(asked, layout={**asked.layout, **layout})
            plans.append((replace(plan_train(tried), job=asked), as_before))
        except NoFeasiblePlanError as error:
            miss = error
        except InputError:  # the old degrees do not divide these chips
            if not as_before:
                raise
    if not plans:
        raise miss or NoFeasiblePlanError("no layout")
    step = {as_before: plan.estimates["step_time"].value for plan, as_before in plans}
    if len(step) == 2 and step[True] <= step[False] * (1 + UNDECIDED):
        plans = [one for one in plans if one[1]]
    plan, as_before = min(plans, key=lambda one: one[0].estimates["step_time"].value)
    return Candidate(hosts=hosts, plan=plan, factor=slowed(plan, work=slowest),
                     as_before=as_before)  # fmt: skip


def _reasons(
    chosen: Candidate, found: list[Candidate], there: HostsThere, old: Plan | None
) -> list[str]:
    order = there.sorted_hosts()
    taken = [host for host in there.hosts if host in set(order[: chosen.hosts])]
    left = [host for host in there.hosts if host not in set(taken)]
    said = [f"within {len(there.hosts)} hosts of {there.chips_per_host} x {there.chip}: "
            f"{chosen.hosts} run it, step {chosen.step_s:.3g} s"]  # fmt: skip
    slow = [f"{host} ({there.slow[host]:g} times slower)" for host in taken
            if there.slow.get(host, 1.0) > 1]  # fmt: skip
    if slow:
        said[0] += f", {chosen.factor:.2f} times that of equal hosts, for {', '.join(slow[:4])}"
    if left:
        more = next((c for c in sorted(found, key=lambda c: c.step_s) if c.hosts > chosen.hosts),
                    None)  # fmt: skip
        why = f": with {more.hosts} hosts the step takes {more.step_s:.3g} s" if more else ""
        said.append(f"left out: {', '.join(left[:8])}{' ...' if len(left) > 8 else ''}{why}")
    if old is not None:
        how = "as before" if chosen.as_before else "another cut of the model"
        step = old.estimates["step_time"].value
        said.append(f"layout {old.layout.short()} on {old.layout.chips} chips -> "
                    f"{chosen.plan.layout.short()}: {how}, step {step:.3g} s before; "
                    "checkpoints are read as they are (burst reshards)")  # fmt: skip
    said.append(f"hosts in the plan's order: {','.join(taken)}" if len(taken) <= 64 else
                f"hosts in the plan's order: the {len(taken)} fastest of the file")  # fmt: skip
    return said
