"""The local page: a question turned by its knobs, its answer drawn beside it, nothing sent away."""

from weftline._lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from weftline.studio.options import StudioOptions
    from weftline.studio.start import serve_studio

__all__ = ["StudioOptions", "serve_studio"]

__getattr__ = lazily(__name__)
