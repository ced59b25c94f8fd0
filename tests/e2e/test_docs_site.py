"""The site of docs/: every page is there, links lead somewhere, nothing is asked for."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate_site.py"), str(tmp_path),
                    "--without-examples"], check=True)  # fmt: skip
    pages = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.html")}
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} | {"index"} <= {
        name.removesuffix(".html") for name in pages
    }
    for name, text in pages.items():
        assert "default-src 'none'" in text
        assert not re.search(r"<(script|link|iframe)\b", text), name
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            file, _, anchor = html.unescape(target).partition("#")
            if re.match(r"https?:", file):
                continue
            assert not file or (tmp_path / file).is_file(), (name, target)
            if anchor and (file or name).endswith(".html"):
                assert f'id="{anchor}"' in pages[file or name], (name, target)
