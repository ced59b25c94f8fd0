"""Writes the flags that an engine's own parser knows, read from its unpacked wheel, as data.

    python docs/freeze_flags.py vllm 0.33.0 2026-11-30 FOLDER > .../launch/data/flags/vllm.json

Nothing of the engine is imported (vLLM's import alone takes a minute or two): the classes and calls
that make its parser are read as text. FOLDER holds the unpacked wheel. torchtitan's flags are the
fields of its configuration classes, by section.
"""

from __future__ import annotations

import ast
import json
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


def literals(trees: list[ast.Module]) -> dict[str, list[str]]:
    """``Name = Literal["a", "b"]`` and lists of words, by name."""
    found: dict[str, list[str]] = {}
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                words = [n.value for n in ast.walk(node.value)
                         if isinstance(n, ast.Constant) and isinstance(n.value, str)]  # fmt: skip
                text = ast.unparse(node.value)
                if words and text.startswith(("Literal[", "[", "get_literal")):
                    found[node.targets[0].id] = words
    return found


def kind_of(annotation: str, named: dict[str, list[str]]) -> Flag:
    """The kind of a value, and the words it may be."""
    text = annotation.replace("'", '"')
    if "Literal[" in text:
        inside = text[text.index("Literal[") + 8 :].split("]")[0]
        words = [w.strip().strip('"') for w in inside.split(",")]
        return {"kind": "str", "choices": words} if "str" not in text.split("Literal")[0] else {
            "kind": "str"}  # fmt: skip
    for name, words in named.items():
        if name in text.replace("|", " ").replace("[", " ").replace("]", " ").split():
            return {"kind": "str", "choices": words}
    for word in text.replace("Optional[", "").replace("]", "").replace("|", " ").split():
        if word.strip(",") in KINDS:
            return {"kind": KINDS[word.strip(",")]}
    return {"kind": "str"}


def fields_of(trees: list[ast.Module]) -> dict[str, str]:
    """Annotation of every field of every class, by field name; the first that has it counts."""
    found: dict[str, str] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        found.setdefault(item.target.id, ast.unparse(item.annotation))
    return found


def vllm(folder: Path) -> dict[str, Flag]:
    """Flags of ``vllm serve``: the calls of add_argument, typed by the fields they come from."""
    config = list(parsed(folder, "vllm/config/*.py"))
    calls = [*parsed(folder, "vllm/engine/arg_utils.py"),
             *parsed(folder, "vllm/entrypoints/**/cli_args.py")]  # fmt: skip
    named, fields = literals([*config, *calls]), fields_of([*config, *calls])
    found: dict[str, Flag] = {}
    for tree in calls:
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "add_argument"):  # fmt: skip
                continue
            names = [a.value for a in node.args if isinstance(a, ast.Constant)]
            flags = [n for n in names if isinstance(n, str) and n.startswith("--")]
            if not flags:
                continue
            keys = [n.value for k in node.keywords for n in ast.walk(k.value)
                    if isinstance(n, ast.Constant) and n.value in fields]  # fmt: skip
            field = str(keys[0]) if keys else flags[0][2:].replace("-", "_")
            switch = any(k.arg == "action" and isinstance(k.value, ast.Constant)
                         and "store_" in str(k.value.value) for k in node.keywords)  # fmt: skip
            for flag in flags:
                found[flag] = kind_of("bool" if switch else fields.get(field, "str"), named)
    frontend = {"--host": "str", "--port": "int", "--api-key": "str"}
    found |= {name: {"kind": kind} for name, kind in frontend.items() if name not in found}
    for name in [n for n, flag in found.items() if flag["kind"] == "bool"]:
        found[f"--no-{name[2:]}"] = {"kind": "bool"}
    return found


def sglang(folder: Path) -> dict[str, Flag]:
    """Flags of ``sglang.launch_server``: the fields of its argument groups, and their aliases."""
    trees = list(parsed(folder, "sglang/srt/arg_groups/fields/*.py"))
    trees += list(parsed(folder, "sglang/srt/server_args.py"))
    named = literals([*trees, *parsed(folder, "sglang/srt/arg_groups/choices.py")])
    found: dict[str, Flag] = {}
    for tree in trees:
        for item in (i for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for i in n.body):
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            annotation = ast.unparse(item.annotation)
            if not annotation.startswith("A["):
                continue
            inside = next(n for n in ast.walk(item.annotation) if isinstance(n, ast.Tuple)).elts[0]
            flag = kind_of(ast.unparse(inside), named)
            names = ["--" + item.target.id.replace("_", "-")]
            for call in (n for n in ast.walk(item.annotation) if isinstance(n, ast.Call)):
                for keyword in call.keywords:
                    words = [
                        n.value
                        for n in ast.walk(keyword.value)
                        if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ]
                    if keyword.arg == "aliases":
                        names += words
                    if keyword.arg == "choices":
                        chosen = named.get(ast.unparse(keyword.value), words)
                        flag = {**flag, "choices": chosen} if chosen else flag
            for name in names:
                found[name] = flag
    return found


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
                flag = kind_of(ast.unparse(item.annotation), {})
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
                flag = kind_of(ast.unparse(item.annotation), {})
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
    read = {"vllm": vllm, "sglang": sglang, "torchtitan": torchtitan, "megatron": megatron,
            "maxtext": maxtext}  # fmt: skip
    flags = read[name](Path(folder))
    said = {
        "engine": name, "version": version, "date": date,
        "source": f"{name} {version}; names and kinds only (facts), by docs/freeze_flags.py",
        "flags": {flag: flags[flag] for flag in sorted(flags)},
    }  # fmt: skip
    text = json.dumps(said).replace('}, "', '},\n "').replace('"flags": {', '"flags": {\n ')
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
