"""``weftline studio``: the local page."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from weftline.studio.options import StudioOptions

KEPT_STUDIO = StudioOptions()
"""What holds where nothing is said."""


def studio(*, options: Annotated[StudioOptions, Parameter(name="*")] = KEPT_STUDIO) -> int:
    """A local page for plans: turn a question's knobs, compare, share, export, audit.

    It listens on this machine alone unless told otherwise, asks nothing of any other, and shows
    the command line of everything it answers. Needs the extra `web`.
    """
    from weftline.studio import serve_studio

    return serve_studio(options, lambda line: print(line, file=sys.stderr, flush=True))
