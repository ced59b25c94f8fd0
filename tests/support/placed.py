"""What the placement tests share: a plan with a map that no launcher makes by itself, and a rank.

Run as a script it is one process of a job: it places itself and says where (`HOST LOCAL RANK ...`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

MAP = (2, 1, 3, 0)
"""Chip of each rank, two chips a host: ranks 0 and 2 on the second host, 1 and 3 on the first."""
SAID = {(slot, local): rank for rank, chip in enumerate(MAP) for slot, local in [divmod(chip, 2)]}


def small_plan(path: Path, chips: tuple[int, ...] = MAP, per_host: int = 2) -> Path:
    """A plan for ``len(chips)`` chips on hosts of ``per_host``, as far as placement reads it."""
    plan: dict[str, Any] = {
        "format": 1,
        "layout": {"tp": 1, "cp": 1, "dp": len(chips), "pp": 1},
        "cluster": {"chips": len(chips), "chips_per_host": per_host, "levels": []},
        "rank_map": {"shape": [len(chips)], "runs": [[chip, 1, 1] for chip in chips]},
    }
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def main() -> None:
    """Place this process by ``sys.argv``: the folder of place.py, a plan or ``-`` where it has
    been placed already, the folder for what it says."""
    folder, plan, out = sys.argv[1:4]
    sys.path.insert(0, folder)
    import weftline_place

    if plan != "-":
        weftline_place.place(plan)
    known = weftline_place.facts_of()
    said = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR",
                                                "MASTER_PORT")}  # fmt: skip
    line = {"host": known.host, "local": known.local, "restart": known.restart,
            **said}  # fmt: skip
    Path(out, f"{known.host}.{known.local}.{known.restart}.json").write_text(json.dumps(line))
    if known.restart < int(os.environ.get("FAIL_BEFORE", "0")):
        sys.exit(7)


if __name__ == "__main__":
    main()
