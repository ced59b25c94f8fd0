"""Who published a run: the repository or paper its numbers were read from.

Runs of one source share all that a table does not state (who tuned them, which build, how a step
was timed), so what is fitted is judged on sources that the fit has not seen.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["source_of"]

_ROUND: Final = re.compile(r"training_results_(v\d+\.\d+)")
_REPOSITORY: Final = re.compile(r"\b([A-Za-z][\w.-]*/[A-Za-z][\w.-]*)")
_PAPER: Final = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def source_of(text: str) -> str:
    """A short name of the source that ``text`` cites, the same for all runs read from it.

    MLPerf by round, then a paper's arXiv number, then a repository (``owner/name``), then the text.
    """
    if found := _ROUND.search(text):
        return f"MLPerf {found[1]}"
    if found := _PAPER.search(text):
        return f"arXiv:{found[1]}"
    if found := _REPOSITORY.search(text):
        return found[1]
    return text.strip() or "not stated"
