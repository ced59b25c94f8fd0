"""Rows as a pandas DataFrame, for those who have pandas: weftline does not need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from weftline.errors import InputError


def frame_of(rows: Sequence[Mapping[str, Any]]) -> Any:
    """One row a mapping. Raises InputError where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        raise InputError("pandas is not installed", hint="pip install pandas") from None
    return pd.DataFrame(list(rows))
