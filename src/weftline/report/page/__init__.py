"""An answer as one page that a browser opens from a file: charts with their tables, no request."""

from weftline.report.page.answers import page_of
from weftline.report.page.document import Fragment, asset, document, fragment

__all__ = ["Fragment", "asset", "document", "fragment", "page_of"]
