"""Loading from a bucket alone, the way ``burst restore s3://...`` does."""

from __future__ import annotations

from weftline.burst.formats.imports import load_from
from weftline.burst.nodes.agree import choose, survey_bucket
from weftline.burst.read.restore import Loaded
from weftline.burst.remote.checkpoints import Objects, RemoteSource

__all__ = ["load_from_bucket"]


def load_from_bucket(objects: Objects, step: int | None = None) -> Loaded:
    """The checkpoint of ``step``, or the newest that is whole there."""
    source = RemoteSource(objects)
    return load_from([source], choose([survey_bucket(source)], step=step).commit)
