"""The hosts that are there, as a file: what ``plan train --within`` reads and preflight writes.

    {"chip": "h100-sxm", "chips_per_host": 8, "hosts": ["n0", "n1", "n3"], "slow": {"n3": 1.4},
     "plan": "plan.json"}

``slow`` says how many times slower a host computes; ``plan`` names the plan that ran before, beside
the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError, InputErrors
from weftline.spec.located import Located, read_located

_FIELDS: Final = ("chip", "chips_per_host", "hosts", "slow", "plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsThere:
    """Hosts of one chip, equal but for what ``slow`` says."""

    chip: str
    chips_per_host: int
    hosts: tuple[str, ...]
    slow: Mapping[str, float] = field(default_factory=dict)
    """Host -> how many times slower it computes, above 1."""
    plan: Path | None = None
    """The plan that ran before."""

    def sorted_hosts(self) -> list[str]:
        """The fastest first, among equals as they stand."""
        return sorted(self.hosts, key=lambda host: self.slow.get(host, 1.0))

    def to_json(self) -> str:
        """The file."""
        said = {"chip": self.chip, "chips_per_host": self.chips_per_host,
                "hosts": list(self.hosts), "slow": dict(self.slow),
                **({"plan": str(self.plan)} if self.plan else {})}  # fmt: skip
        return json.dumps(said, indent=1) + "\n"


def read_hosts_there(path: Path, *, where: str = "--within") -> HostsThere:
    """The file. Raises InputErrors with every mistake in it, each with its line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        what = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"`{path}`: {what}", where=where,
                         hint="`weftline preflight plan.json --hosts-out FILE` writes one"
                         ) from None  # fmt: skip
    root = read_located(text, str(path))
    if not isinstance(root.value, dict):
        raise InputError("no mapping of chip, chips_per_host and hosts", where=f"{path}:1")
    wrong = [InputError(f"unknown field `{name}`", where=f"{path}:{held.line}",
                        hint=f"it has {', '.join(_FIELDS)}")
             for name, held in root.value.items() if name not in _FIELDS]  # fmt: skip
    said = {name: root.get(name) for name in _FIELDS}

    def refuse(name: str, what: str) -> None:
        held: Located | None = root.value.get(name)
        wrong.append(InputError(what, where=f"{path}:{held.line if held else 1}"))

    _check(said, refuse)
    if wrong:
        raise wrong[0] if len(wrong) == 1 else InputErrors(wrong)
    return HostsThere(
        chip=said["chip"], chips_per_host=said["chips_per_host"], hosts=tuple(said["hosts"]),
        slow={host: float(times) for host, times in (said["slow"] or {}).items()},
        plan=path.parent / said["plan"] if said["plan"] else None,
    )  # fmt: skip


def _check(said: Mapping[str, Any], refuse: Any) -> None:
    if not isinstance(said["chip"], str) or not said["chip"]:
        refuse("chip", "`chip` names the accelerator: h100-sxm")
    per_host = said["chips_per_host"]
    if not isinstance(per_host, int) or isinstance(per_host, bool) or per_host < 1:
        refuse("chips_per_host", f"`chips_per_host` is `{per_host}`, a number of chips is wanted")
    hosts = said["hosts"]
    if not isinstance(hosts, list) or not hosts or not all(isinstance(h, str) for h in hosts):
        refuse("hosts", "`hosts` lists the names of the hosts that are there")
        hosts = []
    elif twice := sorted({host for host in hosts if hosts.count(host) > 1}):
        refuse("hosts", f"host `{twice[0]}` stands twice")
    slow = said["slow"] or {}
    if not isinstance(slow, dict):
        refuse("slow", "`slow` maps hosts to how many times slower they compute")
        return
    for host, times in slow.items():
        if hosts and host not in hosts:
            refuse("slow", f"slow host `{host}` is none of the hosts")
        if not isinstance(times, int | float) or isinstance(times, bool) or not times >= 1:
            refuse("slow", f"host `{host}` is `{times}` times slower: 1 or more is wanted")
    if said["plan"] is not None and not isinstance(said["plan"], str):
        refuse("plan", "`plan` names a file")
