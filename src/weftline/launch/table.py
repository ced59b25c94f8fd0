"""The targets as Markdown: what each takes, how that is checked, and what it cannot say."""

from __future__ import annotations

from weftline.launch.check.run import frozen_versions
from weftline.launch.registry import targets


def markdown() -> str:
    """``docs/launch-targets.md``."""
    lines = [
        "<!-- Written by `make docs` from the targets themselves. -->", "",
        "# What every target of `weftline export` takes", "",
        "| target | plans | written for | read | how it is checked |", "|---|---|---|---|---|",
    ]  # fmt: skip
    known = targets()
    for target in known.values():
        kinds = " and ".join({"train": "training", "serve": "serving"}[k] for k in target.kinds)
        lines.append(f"| `{target.name}` ({target.title}) | {kinds} | {target.version} "
                     f"| {target.date} | **{target.checked}**: {target.how} |")  # fmt: skip
    frozen = ", ".join(f"{name} {version}" for name, version in frozen_versions().items())
    lines += ["", f"Frozen flag lists: {frozen}.", ""]
    for target in known.values():
        lines += [f"## {target.name}", "", f"{target.title}, {target.version}. Source: "
                  f"{target.source}; {target.date}.", "", "| of the plan | in its files |",
                  "|---|---|"]  # fmt: skip
        lines += [f"| {m.what} | {_cell(m.where)} |" for m in target.maps]
        settings = [f"`{n}{'=' + d if d else ''}`" + (f" ({h})" if h else "")
                    for n, (d, h) in target.settings.items()]  # fmt: skip
        lines += ["", f"Cannot say: {'; '.join(target.cannot)}."]
        if settings:
            lines += ["", f"`--set`: {', '.join(settings)}."]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
