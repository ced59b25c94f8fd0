"""Adapters that were trained beside a model's weights, as peft writes them: found and merged in.

What is served is one model: the product of the two small matrices is added to the weight it stands
beside, so that a step costs what a step of the base costs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from weftline.errors import InputError

__all__ = ["CONFIG", "beside", "merged", "rank_of"]

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"


def beside(place: Path) -> Path | None:
    """The folder of the weights that the adapters in ``place`` stand beside; None where it holds
    no adapters.

    Raises InputError where they name no folder that is here: nothing is fetched.
    """
    if not (place / CONFIG).is_file():
        return None
    named = _config(place).get("base_model_name_or_path")
    base = Path(str(named or ""))
    # A path that moved with the adapters is looked up beside them, too.
    for found in (base, place / base):
        if named and (found / "config.json").is_file():
            return found
    raise InputError(
        f"these adapters stand beside `{named or ''}`, which is no folder here", where=str(place),
        hint=f"weftline serve FOLDER_OF_THE_WEIGHTS --adapter {place}",
    )  # fmt: skip


def rank_of(place: Path) -> int:
    """The largest rank of the adapters in ``place``. Raises InputError."""
    config = _config(place)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((r for r in ranks if isinstance(r, int)), default=0)


def _config(place: Path) -> dict[str, Any]:
    path = place / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(error.strerror or "cannot read", where=str(path),
                         hint="a folder as peft writes it") from None  # fmt: skip
    except ValueError:
        raise InputError("not JSON", where=str(path)) from None
    if not isinstance(found, dict):
        raise InputError("not an object", where=str(path))
    return found


def merged(model: Any, place: Path) -> Any:
    """``model`` with the adapters in ``place`` added into its weights. Raises InputError.

    Only safetensors are read: other formats run code as they are opened.
    """
    _config(place)
    if not (place / WEIGHTS).is_file():
        raise InputError("no such file", where=str(place / WEIGHTS))
    try:
        from peft import PeftModel
    except ImportError:
        raise InputError("peft is needed for adapters",
                         hint="pip install 'weftline[tune]'") from None  # fmt: skip
    from weftline.runtime.train.models import quietly

    with quietly():
        try:
            tuned: Any = PeftModel.from_pretrained(model, str(place))
            return tuned.merge_and_unload(safe_merge=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"the adapters do not fit: {said[0]}", where=str(place)) from None
