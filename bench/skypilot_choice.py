"""SkyPilot's own optimizer, fed our catalogue, beside the seller that our plan named.

    python bench/skypilot_choice.py plan.json --python /path/of/an/environment/with/skypilot

Writes SkyPilot's catalogue files from our price rows for the plan's chip (one VM a seller, as many
chips as a host has), exports the plan for SkyPilot, and lets ``Optimizer.optimize`` choose with no
network and every cloud of the catalogue enabled. Prints both choices and the ratio of their prices.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from weftline.catalog import offers_to_take
from weftline.launch.export import export_plan, write_folder
from weftline.launch.targets.clouds.skypilot import ACCELERATORS, CLOUDS, SINGLE
from weftline.spec.serialize import read_plan

COLUMNS = ("InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price",
           "SpotPrice", "Region", "AvailabilityZone", "GpuInfo", "Arch", "LocalDiskType",
           "NVMeSupported", "LocalDiskSize", "LocalDisksCount")  # fmt: skip
CHOOSE = """
import json, sys
from unittest import mock
import sky
from sky import check
from sky.optimizer import Optimizer
from sky.utils.common import OptimizeTarget
from sky.utils.registry import CLOUD_REGISTRY
names = json.loads(sys.argv[2])
enabled = [CLOUD_REGISTRY.from_str(n) for n in names]
enabled = [c for c in enabled if c is not None]
task = sky.Task.from_yaml(sys.argv[1])
with sky.Dag() as dag:
    dag.add(task)
with mock.patch("sky.check.get_cached_enabled_clouds_or_refresh", return_value=enabled), \\
     mock.patch("sky.clouds.cloud.Cloud.check_credentials", return_value=(True, None)):
    Optimizer.optimize(dag, minimize=OptimizeTarget.COST, quiet=True)
best = task.best_resources
print(json.dumps({"cloud": str(best.cloud).lower(), "region": best.region,
                  "usd_per_hour": best.get_cost(3600)}))
"""


def write_catalog(
    home: Path, chip: str, kind: str, per_host: int, day: datetime.date
) -> dict[str, float]:
    """One VM a seller that SkyPilot knows, at our cheapest row; price an hour by cloud."""
    folder = home / ".sky" / "catalogs" / "v8"
    name = ACCELERATORS[chip]
    found: dict[str, float] = {}
    for offer in offers_to_take(chip, kind, today=day):  # type: ignore[arg-type]
        cloud = CLOUDS.get(offer.provider)
        if cloud is not None:
            rate = offer.usd_per_chip_hour * per_host
            found[cloud] = min(rate, found.get(cloud, rate))
    for cloud, rate in found.items():
        (folder / cloud).mkdir(parents=True, exist_ok=True)
        with (folder / cloud / "vms.csv").open("w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS)
            rows.writeheader()
            region = {"aws": "us-east-1", "gcp": "us-central1", "azure": "eastus"}.get(cloud, "r1")
            rows.writerow({
                "InstanceType": f"weft.{per_host}x{name}", "AcceleratorName": name,
                "AcceleratorCount": per_host, "vCPUs": 64, "MemoryGiB": 512, "Price": rate,
                "SpotPrice": rate, "Region": region, "AvailabilityZone": f"{region}a",
                "GpuInfo": "{'Gpus': [{'MemoryInfo': {'SizeInMiB': 81920}}]}",
            })  # fmt: skip
    (folder / "common").mkdir(parents=True, exist_ok=True)
    with (folder / "common" / "accelerators.csv").open("w", newline="") as file:
        plain = csv.writer(file)
        plain.writerows([["AcceleratorName", "Clouds"],
                         [name, str([c.upper() for c in found])]])  # fmt: skip
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen here and there, in USD a host-hour."""

    ours: str
    ours_usd: float
    theirs: str
    theirs_usd: float
    hosts: int
    listed: dict[str, float]
    """Cloud -> price, of the clouds that SkyPilot starts machines of."""

    @property
    def expected(self) -> tuple[str, ...]:
        """Our seller as SkyPilot names it; where it starts no machines of it, or none together, the
        cheapest of those that it does start: all of them, where several ask the same."""
        own = CLOUDS.get(self.ours)
        able = {c: p for c, p in self.listed.items() if self.hosts == 1 or c not in SINGLE}
        if own in able:
            return (own,)
        return tuple(sorted(c for c, p in able.items() if p == min(able.values())))


def choice_of(path: Path, python: str) -> Choice:
    """Both choices for one plan. Raises SystemExit where there is none."""
    plan = read_plan(path)
    assert plan.price is not None, "the plan has no price"
    day = datetime.date.fromisoformat(plan.catalog_date)
    per_host = min(plan.cluster.chips_per_host, plan.layout.chips)
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        prices = write_catalog(home, plan.cluster.accelerator, plan.price.price_type, per_host, day)
        if not prices:
            raise SystemExit(f"no seller of {plan.cluster.accelerator} is one SkyPilot knows")
        job = home / "job"
        write_folder(export_plan(path, "skypilot"), job)
        done = subprocess.run(
            [python, "-c", CHOOSE, str(job / "task.yaml"), json.dumps(sorted(prices))],
            env={**os.environ, "HOME": text}, cwd=job, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"SkyPilot did not choose: {done.stderr.strip().splitlines()[-1]}")
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    return Choice(ours=plan.price.provider, theirs=theirs["cloud"], hosts=plan.cluster.hosts,
                  ours_usd=plan.price.usd_per_chip_hour.value * per_host,
                  theirs_usd=theirs["usd_per_hour"], listed=prices)  # fmt: skip


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--python", required=True, help="interpreter that has SkyPilot")
    asked = parser.parse_args()
    found = choice_of(asked.plan, asked.python)
    listed = ", ".join(f"{c} {p:.2f}" for c, p in sorted(found.listed.items(), key=lambda i: i[1]))
    print(f"our plan: {found.ours} at {found.ours_usd:.2f} USD/host-hour")
    print(f"SkyPilot: {found.theirs} at {found.theirs_usd:.2f} USD/host-hour, of {listed}")
    if CLOUDS.get(found.ours) not in found.expected:
        print(f"SkyPilot starts no {found.hosts} machines of {found.ours}; the cheapest that it "
              f"starts so many of together is {' or '.join(found.expected)}")  # fmt: skip
    print("the same" if found.theirs in found.expected else "differs")


if __name__ == "__main__":
    main()
