"""What an export is made of: the question, a target and what it maps, and the files it writes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from weftline.errors import InputError, UnknownNameError
from weftline.spec import Plan, ServePlan

if TYPE_CHECKING:
    from weftline.catalog import Accelerator

Kind = Literal["train", "serve"]
Checked = Literal["run in tests", "schema", "own parser", "frozen flags", "not checked"]
NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""What every target takes as a job's name (Kubernetes adds to it, 63 characters at most)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """One thing of a plan, and where it stands in the target's files."""

    what: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of one export, by name, and what the plan says that they cannot."""

    files: Mapping[str, str]
    start: str
    """The command that starts the job, run inside the folder."""
    notes: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    """Files that are to be executable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A plan, and what the user says about the job that the plan does not know."""

    plan: Plan | ServePlan
    text: str
    """plan.json as it stands."""
    name: str
    command: tuple[str, ...] = ()
    """What every process runs; empty for the trainer or engine of the plan."""
    image: str = ""
    hosts: tuple[str, ...] = ()
    """Names of the planned hosts, in the plan's order; empty where any will do."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the target asks for beside the plan, by the names of ``Target.settings``."""

    @property
    def train(self) -> Plan:
        """The plan as one for training. Raises InputError."""
        if not isinstance(self.plan, Plan):
            raise InputError(
                "the plan is for serving",
                where="--to",
                hint="vllm, sglang, trtllm, lws, kserve, llm-d and dynamo serve",
            )
        return self.plan

    @property
    def serve(self) -> ServePlan:
        """The plan as one for serving. Raises InputError."""
        if not isinstance(self.plan, ServePlan):
            raise InputError("the plan is for training", where="--to",
                             hint="torchrun, slurm, jobset, ray, mpi and others train")  # fmt: skip
        return self.plan

    def set(self, name: str) -> str:
        """One setting; empty where it was not given and has no default."""
        return self.settings.get(name, "")

    @property
    def chips(self) -> int:
        """Chips of the job, or of one replica."""
        if isinstance(self.plan, ServePlan):
            return self.plan.fleet.chips_per_replica
        return self.plan.layout.chips

    @property
    def per_host(self) -> int:
        """Chips of one host."""
        if isinstance(self.plan, Plan):
            return min(self.plan.cluster.chips_per_host, self.plan.layout.chips)
        return min(self.chip.chips_per_host or 8, self.chips)

    @property
    def chip(self) -> Accelerator:
        """The chip, of the catalogue or of the plan's own ones."""
        from weftline.catalog import accelerator, own_chips

        plan = self.plan
        with own_chips(plan.job.own_chips if isinstance(plan, Plan) else ()):
            return accelerator(self.accelerator)

    @property
    def nodes(self) -> int:
        """Hosts of the job, or of one replica."""
        return -(-self.chips // self.per_host)

    @property
    def accelerator(self) -> str:
        """Catalogue name of the chip."""
        plan = self.plan
        return plan.cluster.accelerator if isinstance(plan, Plan) else plan.fleet.accelerator

    @property
    def domain_nodes(self) -> int:
        """Planned hosts of one scale-up domain (NVL72: up to 18); 1 where each has its own."""
        if not isinstance(self.plan, Plan):
            return 1
        from dataclasses import asdict

        from weftline.launch.place import domain_of

        return domain_of(asdict(self.plan))

    def line(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One engine that starts jobs: what of a plan it takes, in which version, what it cannot."""

    name: str
    title: str
    kinds: tuple[Kind, ...]
    version: str
    """What the files are written for."""
    date: str
    """When that was last held against the source."""
    source: str
    checked: Checked
    how: str
    """What `--check` and the tests do."""
    maps: tuple[Mapped, ...]
    cannot: tuple[str, ...]
    """What a plan may say that the target has no words for."""
    write: Callable[[Ask], Written]
    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What may be set beside the plan: name -> (default, help)."""


def settings_of(target: Target, given: Mapping[str, str]) -> dict[str, str]:
    """Defaults of the target under what was given. Raises InputError(s) for unknown names."""
    for name in given:
        if name not in target.settings:
            known = ", ".join(target.settings) or "none"
            raise UnknownNameError(f"setting of {target.name}", name, target.settings,
                                   where="--set", hint=f"it has: {known}.")  # fmt: skip
    return {**{name: default for name, (default, _) in target.settings.items()}, **given}
