"""Ten injected faults and twenty clean runs of preflight, four processes in network namespaces.

    python bench/preflight_faults.py              # root, iproute2; about six minutes
    python bench/preflight_faults.py 0:5          # pieces: faults 0 to 4
    python bench/preflight_faults.py clean:10     # ten clean runs

The cases are those of tests/e2e/test_preflight.py: two hosts of two ranks, 50 MB/s inside and
12.5 MB/s between them. Prints what each run found; the exit code is 1 where one is wrong.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "e2e")]

import namespaces as ns  # noqa: E402  (the path is made above)
from launchers import free_port, small_train_plan, write_plan_file  # noqa: E402
from test_preflight import CASES  # noqa: E402


def faults(job: ns.Job, names: list[str]) -> int:
    """Inject one after the other; how many were named, and nothing else with them."""
    right = 0
    for name in names:
        case, began = CASES[name], time.monotonic()
        case.before()
        try:
            said = job.preflight(case.faults, free_port())
        finally:
            case.after()
            ns.clean()
        text = "; ".join(f["what"] for f in said["findings"])
        good = {f["kind"] for f in said["findings"]} == case.kinds
        good = good and all(word in text for word in case.words)
        right += good
        took = time.monotonic() - began
        print(f"{'found' if good else 'WRONG':6} {name:15} {took:5.1f} s  {text}", flush=True)
    return right


def main() -> None:
    """Faults, then clean runs, or the piece that was asked for."""
    if why := ns.lacks():
        raise SystemExit(why)
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    first, _, last = asked.partition(":")
    names = list(CASES)
    clean = 20
    if first == "clean":
        names, clean = [], int(last)
    elif asked:
        names, clean = names[int(first or 0) : int(last or len(names))], 0
    with tempfile.TemporaryDirectory() as text, ns.fabric():
        ns.clean()
        job = ns.Job(Path(text), write_plan_file(Path(text), small_train_plan((0, 1, 2, 3))))
        try:
            job.preflight(ns.Faults(), free_port())  # first touches: imports, buffers, ARP
            right = faults(job, names)
            alarms = [f["what"] for _ in range(clean)
                      for f in job.preflight(ns.Faults(), free_port())["findings"]]  # fmt: skip
        finally:
            job.close()
    print(f"{right} of {len(names)} faults found; {len(alarms)} false alarms in {clean} clean runs",
          *alarms, sep="\n  ")  # fmt: skip
    sys.exit(int(right < len(names) or bool(alarms)))


if __name__ == "__main__":
    main()
