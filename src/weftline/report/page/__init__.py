"""An answer as one page that a browser opens from a file: charts with their tables, no request."""

from weftline.report.page.answers import page_of
from weftline.report.page.document import document

__all__ = ["document", "page_of"]
