"""What the planners say of a stage at a site, asked once a run.

A lifecycle asks the same question for many ways to place its stages; the answers are kept by the
question itself.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from weftline.decide.lifecycle.fields import JOB_FIELDS
from weftline.decide.lifecycle.read import Stage
from weftline.decide.lifecycle.sites import Site
from weftline.errors import InputError, NoFeasiblePlanError
from weftline.plan import job_of, plan_train
from weftline.serve.search.asked import serve_job_of
from weftline.serve.search.plan import plan_serve
from weftline.spec import Job, Plan, ServeJob, ServePlan
from weftline.spec.options import FleetOptions, JobOptions, ServingOptions, TrafficOptions

__all__ = ["Answers"]


class Answers:
    """Plans of one lifecycle, each made once; a question without an answer keeps its reason."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._trained: dict[Job, Plan | NoFeasiblePlanError] = {}
        self._served: dict[tuple[Any, ...], ServePlan | NoFeasiblePlanError] = {}
        self.asked = 0
        """Questions that went to a planner."""

    def check(self, stage: Stage, site: Site) -> None:
        """Raise what is wrong with a stage's fields, without planning it."""
        if stage.kind in ("train", "finetune"):
            self._job(stage, site)
        elif stage.kind in ("serve", "rollouts"):
            self._serve_job(stage, site, 1.0, 1.0, 1.0)

    def train(self, stage: Stage, site: Site) -> Plan:
        """The plan of a training stage at a site. Raises NoFeasiblePlanError."""
        job = self._job(stage, site)
        key = replace(job, own_prices=_frozen(job.own_prices), discounts=_frozen(job.discounts),
                      layout=_frozen(job.layout))  # fmt: skip
        if key not in self._trained:
            self.asked += 1
            try:
                self._trained[key] = plan_train(job)
            except NoFeasiblePlanError as error:
                self._trained[key] = error
        found = self._trained[key]
        if isinstance(found, NoFeasiblePlanError):
            raise found
        return found

    def serve(
        self, stage: Stage, site: Site, rate_per_s: float, prompt: float, answer: float
    ) -> ServePlan:
        """The plan of a fleet at a site for so many requests a second. Raises as :meth:`train`."""
        job = self._serve_job(stage, site, rate_per_s, prompt, answer)
        key = (site.name, stage.name, rate_per_s, prompt, answer)
        if key not in self._served:
            self.asked += 1
            try:
                self._served[key] = plan_serve(job)
            except NoFeasiblePlanError as error:
                self._served[key] = error
        found = self._served[key]
        if isinstance(found, NoFeasiblePlanError):
            raise found
        return found

    def _job(self, stage: Stage, site: Site) -> Job:
        options = _options(JobOptions, stage, site)
        return job_of(self.model, options, where=stage.where)

    def _serve_job(
        self, stage: Stage, site: Site, rate_per_s: float, prompt: float, answer: float
    ) -> ServeJob:
        fleet = _options(FleetOptions, stage, site)
        if stage.kind == "rollouts" and "headroom" not in stage.values:
            # Nobody waits for one answer: the fleet may run full, so that its batches are large.
            fleet = replace(fleet, headroom="0%")
        own = {n: str(stage.values[n]) for n in ("burstiness", "spread", "seed")
               if n in stage.values}  # fmt: skip
        numbers: dict[str, Any] = {k: (int if k == "seed" else float)(v) for k, v in own.items()}
        traffic = TrafficOptions(rate=f"{rate_per_s!r}/s", input=f"{prompt:.0f}",
                                 output=f"{answer:.0f}", **numbers)  # fmt: skip
        serving = _options(ServingOptions, stage, site)
        return serve_job_of(self.model, fleet, traffic, serving,
                            where=stage.where)  # fmt: skip


def _frozen(pairs: Any) -> Any:
    """Pairs as a value that can be a key."""
    return tuple(sorted(pairs.items()))


def _options(kind: Any, stage: Stage, site: Site) -> Any:
    """The options of a job to train or serve: the stage's own, then what the site decides."""
    groups, without = JOB_FIELDS[stage.kind]
    if kind not in groups:
        return kind()
    names = {f.name for f in fields(kind)} - without
    given: dict[str, Any] = {n: stage.values[n] for n in names if n in stage.values}
    decided = {
        "on": site.chip.id, "region": site.only_region if site.own_usd is None else None,
        "price": site.price_type if site.own_usd is None else f"${site.own_usd!r}/h",
        "discount": site.discount if site.own_usd is None else None,
    }  # fmt: skip
    given |= {n: v for n, v in decided.items() if n in {f.name for f in fields(kind)}}
    if kind is JobOptions and "tokens" not in given:
        raise InputError("`tokens` is missing", where=f"{stage.path}:{stage.line}",
                         hint="tokens: 15T")  # fmt: skip
    return kind(**given)
