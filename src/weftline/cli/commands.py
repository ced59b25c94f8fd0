"""What there is to run: names, where each stands, and what it says of itself.

Each command is imported when it runs, so that help costs the same however many there are. A test
holds these texts to what the commands themselves say.
"""

from __future__ import annotations

from typing import Final

HELP: Final = "Plan, simulate, run and price foundation-model work on any accelerator and network."
COMMANDS: Final = (
    ("audit", "audit:audit",
     "Published claims recomputed: holds, fails, conditional or undecidable, and why."),
    ("bench", "bench:app", "Measure a server under load, from outside."),
    ("burst", "burst:app",
     "Checkpoints: from memory through a log on local disk to an object store."),
    ("calibrate", "calibrate:calibrate",
     "Measure this machine for `plan ... --on here`, or learn from measured runs of your own."),
    ("catalog", "catalog:app",
     "Chips, fabrics and prices: what is known, from where, how surely."),
    ("codesign", "codesign:codesign",
     "Architectures of equal worth around MODEL: what each costs, and which chip favours which."),
    ("compare", "compare:compare",
     "What a plan predicted and what its run measured, part by part."),
    ("diff", "diff:diff",
     "Two plans beside each other: what was asked, what was chosen, and what it gives."),
    ("doctor", "doctor:doctor",
     "What works on this machine, what is missing, and what each missing thing is for."),
    ("explain", "explain:explain",
     "Where the time, memory and money of a plan go, and what each number rests on."),
    ("export", "export:export",
     "A plan written as the launch files of an engine, its ranks placed as planned."),
    ("export-schedule", "export_schedule:export_schedule",
     "A collective as an MSCCL, MSCCL++ or Chakra file, proved before it is written."),
    ("import", "import_fabric:import_fabric",
     "A cluster's own topology file as a fabric, joined with the catalogue's link speeds."),
    ("inject", "inject:app", "Break a run on purpose: kill, hang or slow a rank, corrupt a save."),
    ("memory", "memory:memory",
     "Memory to train, tune or serve MODEL, by part, and the fewest chips that hold it."),
    ("model", "model:app", "What a model holds: parameters, counted exactly."),
    ("plan", "plan:app", "Find the best plan for a job."),
    ("policy", "policy:app",
     "Hold a plan against rules with sources and dates; sign the decision."),
    ("preflight", "preflight:preflight",
     "Measure links, chips, disks and clocks of the job around it, beside its plan."),
    ("prepare", "prepare:prepare",
     "Tokenise TEXT into a folder that `weftline train --data` reads."),
    ("quality", "quality:quality",
     "What attention policies cost in quality: perplexity, facts found, answers that change."),
    ("report", "report:report",
     "An answer as one page with charts that opens from a file, without a server or a request."),
    ("schedule", "schedule:app",
     "Schedules in files of MSCCL, MSCCL++ and Chakra: proved, timed, shown."),
    ("score", "score:app", "Hold predictions against measurements."),
    ("serve", "serve:serve",
     "Serve MODEL or a plan over HTTP, in the words of OpenAI's API."),
    ("simulate", "simulate:app",
     "Simulate a collective or a serving system without the hardware."),
    ("studio", "studio:studio",
     "A local page for plans: turn a question's knobs, compare, share, export, audit."),
    ("train", "train:train",
     "Train a plan's model as the plan says, and come back from what breaks."),
)  # fmt: skip
