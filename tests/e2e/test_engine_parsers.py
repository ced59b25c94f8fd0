"""vLLM's and SGLang's own parsers take every command that exports write (`make test-vllm`).

Both run without a GPU in an environment of their own; WEFTLINE_ENGINES_PYTHON is its interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from serve_plans import serve_plan

from weftline.errors import InputError
from weftline.launch.check import check_files, flags
from weftline.launch.check.flags import known
from weftline.launch.export import export_plan
from weftline.launch.registry import targets
from weftline.spec.serialize import plan_to_json

PYTHON = os.environ.get("WEFTLINE_ENGINES_PYTHON", "")
ASK = Path(__file__).parents[2] / "docs" / "engine_parser.py"
LAYOUTS: tuple[dict[str, int], ...] = (
    {"tp": 4, "pp": 1, "dp": 1, "ep": 1}, {"tp": 8, "pp": 2, "dp": 1, "ep": 1},
    {"tp": 1, "pp": 1, "dp": 8, "ep": 8},
    {"tp": 4, "pp": 1, "dp": 1, "ep": 1, "prefill_workers": 1, "decode_workers": 2},
)  # fmt: skip
STANDS_FOR = {"$1": "0", "$2": "10.0.0.1", "$LWS_WORKER_INDEX": "0"}
"""What a script or a pod is given: the host's number, the first one's address."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="`make test-vllm` installs the engines (4 GB)"),
]


def asked(engine: str, question: str, given: Any = None) -> Any:
    done = subprocess.run([PYTHON, str(ASK), engine, question], input=json.dumps(given),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Engine -> the words of every command that `--check` looks at, in every serving export."""
    folder = tmp_path_factory.mktemp("exports")
    found: dict[str, list[list[str]]] = {"vllm": [], "sglang": []}

    def record(engine: str, words: list[str], _: str) -> Iterator[Any]:
        kept = [STANDS_FOR.get(w, w) for w in words if w not in ("$@", "${@:3}")]
        if engine in found:
            found[engine].append([w for w in kept if w not in flags._OURS])
        return iter(())

    patch = pytest.MonkeyPatch()
    patch.setattr(flags, "_words", record)
    serving = [name for name, target in targets().items() if "serve" in target.kinds]
    try:
        for layout, weights, kv in product(LAYOUTS, ("bf16", "fp8", "int4"), ("bf16", "fp8")):
            for engine, to in product(("vllm", "sglang"), serving):
                (folder / "plan.json").write_text(
                    plan_to_json(serve_plan(engine=engine, layout=layout, weights=weights, kv=kv))
                )
                with contextlib.suppress(InputError):  # a target of the other engine only
                    check_files(to, export_plan(folder / "plan.json", to).written.files)
    finally:
        patch.undo()
    return found


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_engines_own_parser_takes_our_commands(
    engine: str, commands: dict[str, list[list[str]]]
) -> None:
    mine = [list(words) for words in dict.fromkeys(map(tuple, commands[engine]))]
    assert len(mine) >= 10
    broken = [[*words, "--max-nun-seqs", "1"] for words in mine[:1]]
    refused = asked(engine, "parse", [*mine, *broken])
    assert refused.pop()  # a parser that takes anything would prove nothing
    assert [(words, why) for words, why in zip(mine, refused, strict=True) if why] == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_frozen_list_is_what_the_parser_says(engine: str) -> None:
    assert known(engine)["flags"] == asked(engine, "flags")
