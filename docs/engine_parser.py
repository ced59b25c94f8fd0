"""Asks an engine's own parser; run by the interpreter that has the engine, not by weftline's.

    PYTHON docs/engine_parser.py vllm flags            its flags, kinds and choices as JSON
    PYTHON docs/engine_parser.py vllm parse < WORDS    for each list of words what it refuses, or ""

WORDS is a JSON list of the words after ``vllm serve`` or ``python -m sglang.launch_server``.
`make test-vllm` makes such an interpreter; nothing of weftline is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from typing import Any


def vllm_parser() -> argparse.ArgumentParser:
    """The parser of ``vllm serve``."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))


def sglang_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m sglang.launch_server``."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="sglang.launch_server")
    ServerArgs.add_cli_args(parser)
    return parser


PARSERS = {"vllm": vllm_parser, "sglang": sglang_parser}


def kind_of(convert: Any) -> str:
    """What a flag takes: found by asking it, since parsers wrap int and float in many ways."""

    def takes(text: str) -> Any:
        try:
            return convert(text)
        except Exception:
            return None

    if convert is None or takes("auto") is not None:
        return "str"
    if type(takes("7")) is int and takes("1.5") is None:
        return "int"
    return "float" if type(takes("1.5")) is float else "str"


def flags_of(parser: argparse.ArgumentParser) -> dict[str, dict[str, Any]]:
    """Kind and choices of every long flag, as `--check` reads them."""
    found: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        switch = action.nargs == 0
        flag: dict[str, Any] = {"kind": "bool" if switch else kind_of(action.type)}
        if action.choices is not None and action.nargs is None:
            flag["choices"] = sorted(str(c) for c in action.choices)
        if not switch and action.nargs in ("?", "*"):
            flag["bare"] = True
        found.update({name: flag for name in action.option_strings if name.startswith("--")})
    return found


def refused(parser: argparse.ArgumentParser, words: list[str]) -> str:
    """What the parser says against these words; empty where it takes them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    except ValueError as error:
        return str(error).splitlines()[0]
    return ""


def main() -> None:
    """Answer one question."""
    engine, question = sys.argv[1:3]
    out, sys.stdout = sys.stdout, sys.stderr  # engines print while they are imported
    parser = PARSERS[engine]()
    if question == "flags":
        answer: Any = flags_of(parser)
    else:
        answer = [refused(parser, words) for words in json.load(sys.stdin)]
    json.dump(answer, out)


if __name__ == "__main__":
    main()
