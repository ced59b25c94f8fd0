"""The site of docs/: every page is there, links lead somewhere, nothing is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate_site.py"), str(tmp_path),
                    "--without-examples"], check=True)  # fmt: skip
    pages = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.html")}
    assert len(pages) == 1 + len(list((ROOT / "docs").glob("*.md")))
    for name, text in pages.items():
        assert "default-src 'none'" in text
        assert not re.search(r"<(script|link|iframe)\b", text), name
        for source in re.findall(r'<img src="([^"]+)"', text):
            assert (tmp_path / source).exists(), (name, source)
        for target, anchor in re.findall(r'href="([\w-]+\.html)(?:#([\w-]+))?"', text):
            assert target in pages, (name, target)
            assert not anchor or f'id="{anchor}"' in pages[target], (name, target, anchor)
