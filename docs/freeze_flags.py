"""Writes the flags that an engine's own parser knows as data for `weftline export --check`.

    python docs/freeze_flags.py vllm 0.32.0 2026-11-30 PYTHON > .../launch/data/flags/vllm.json

vLLM and SGLang are asked (PYTHON has them, see `make test-vllm`). Of the others, which want a GPU
stack, the classes and calls that make the parser are read as text from FOLDER, an unpacked wheel or
a checkout. torchtitan's flags are the fields of its configuration classes, by section.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Flag = dict[str, Any]
KINDS = {"int": "int", "float": "float", "bool": "bool", "str": "str"}


def parsed(folder: Path, pattern: str) -> Iterator[ast.Module]:
    """Every module under ``folder`` that matches."""
    for path in sorted(folder.glob(pattern)):
        yield ast.parse(path.read_text(encoding="utf-8"))


def kind_of(annotation: str) -> Flag:
    """The kind of a value, and the words it may be."""
    text = annotation.replace("'", '"')
    if "Literal[" in text:
        inside = text[text.index("Literal[") + 8 :].split("]")[0]
        words = [w.strip().strip('"') for w in inside.split(",")]
        return {"kind": "str", "choices": words} if "str" not in text.split("Literal")[0] else {
            "kind": "str"}  # fmt: skip
    for word in text.replace("Optional[", "").replace("]", "").replace("|", " ").split():
        if word.strip(",") in KINDS:
            return {"kind": KINDS[word.strip(",")]}
    return {"kind": "str"}


def asked(engine: str, python: Path) -> dict[str, Flag]:
    """What the engine's own parser says of itself, under the interpreter that has it."""
    done = subprocess.run(  # noqa: S603  (an interpreter of one's own)
        [str(python), str(Path(__file__).with_name("engine_parser.py")), engine, "flags"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def torchtitan(folder: Path) -> dict[str, Flag]:
    """Fields of torchtitan's configuration classes under the section each stands in."""
    sections = {
        "TrainingConfig": "training", "ParallelismConfig": "parallelism",
        "CompileConfig": "compile", "CommConfig": "comm", "DebugConfig": "debug",
    }  # fmt: skip
    found: dict[str, Flag] = {"--module": {"kind": "str"}, "--config": {"kind": "str"}}
    trees = list(parsed(folder, "torchtitan/config/configs.py"))
    for node in (n for t in trees for n in ast.walk(t) if isinstance(n, ast.ClassDef)):
        section = sections.get(node.name)
        for item in node.body if section else ():
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                flag = kind_of(ast.unparse(item.annotation))
                found[f"--{section}.{item.target.id}"] = flag
    return found


def megatron(folder: Path) -> dict[str, Flag]:
    """Megatron-LM's arguments: those it adds by hand, and the fields of the classes it adds whole.

    A field is ``--its-name``, or what ``arg_names`` beside it says; a switch also ``--no-`` and
    ``--disable-`` it (megatron/training/argument_utils.py, ArgumentGroupFactory).
    """
    places = ("megatron/core/transformer/transformer_config.py", "megatron/training/config/*.py",
              "megatron/core/model_parallel_config.py",
              "megatron/core/distributed/distributed_data_parallel_config.py")  # fmt: skip
    config = [tree for place in places for tree in parsed(folder, place)]
    found: dict[str, Flag] = {}
    for tree in config:
        for item in (i for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for i in n.body):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                flag = kind_of(ast.unparse(item.annotation))
                name = item.target.id.replace("_", "-")
                names = [n.value for n in ast.walk(item) if isinstance(n, ast.Constant)
                         and isinstance(n.value, str) and n.value.startswith("--")]  # fmt: skip
                names = names or [f"--{name}"]
                if flag["kind"] == "bool":
                    names += [f"--no-{name}", f"--disable-{name}"]
                found |= {n: flag for n in names if " " not in n}
    for tree in parsed(folder, "megatron/training/arguments.py"):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "add_argument"):  # fmt: skip
                continue
            said = {k.arg: ast.unparse(k.value).strip("'") for k in node.keywords}
            switch = said.get("action", "").startswith("store_")
            kind = "bool" if switch else KINDS.get(said.get("type", "str"), "str")
            for name in (a.value for a in node.args if isinstance(a, ast.Constant)):
                found[str(name)] = {"kind": kind}
    return found


def maxtext(folder: Path) -> dict[str, Flag]:
    """Keys of MaxText's base.yml, which are its arguments ``key=value``."""
    text = (folder / "base.yml").read_text(encoding="utf-8")
    keys = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha() and ":" in line]
    return {key: {"kind": "str"} for key in keys}


def main() -> None:
    """Print the flags of one engine."""
    name, version, date, folder = sys.argv[1:5]
    read = {"torchtitan": torchtitan, "megatron": megatron, "maxtext": maxtext}
    flags = read[name](Path(folder)) if name in read else asked(name, Path(folder))
    how = "read as text" if name in read else "its own parser asked"
    said = {
        "engine": name, "version": version, "date": date,
        "source": f"{name} {version}, {how}; names and kinds only (facts), by docs/freeze_flags.py",
        "flags": {flag: flags[flag] for flag in sorted(flags)},
    }  # fmt: skip
    text = json.dumps(said).replace('}, "', '},\n "').replace('"flags": {', '"flags": {\n ')
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
