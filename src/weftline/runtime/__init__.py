"""What runs on PyTorch: transformers' own models, built without memory to count what they hold."""

from typing import TYPE_CHECKING

from weftline._lazy import lazily

if TYPE_CHECKING:
    from weftline.runtime.meta import MetaCount, count_on_meta

__all__ = ["MetaCount", "count_on_meta"]

__getattr__ = lazily(__name__)
