"""The local page: a question turned by its knobs, its answer drawn beside it, nothing sent away."""

from typing import TYPE_CHECKING

from weftline._lazy import lazily

if TYPE_CHECKING:
    from weftline.studio.options import StudioOptions
    from weftline.studio.start import serve_studio

__all__ = ["StudioOptions", "serve_studio"]

__getattr__ = lazily(__name__)
