"""What the tests against transformers share: the module itself, without its chatter."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def transformers() -> Any:
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    return module
