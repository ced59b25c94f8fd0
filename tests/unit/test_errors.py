"""What a user reads when something is wrong, and the exit code a script sees."""

from __future__ import annotations

import inspect

import pytest

from weftline import errors
from weftline.errors import (
    InputError,
    InputErrors,
    InternalError,
    NoFeasiblePlanError,
    OfflineError,
    ThresholdCrossedError,
    UnknownNameError,
    WeftlineError,
    nearest_names,
)


def test_every_error_is_of_one_tree_and_drawn_at_its_head() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)
               if issubclass(c, Exception)]  # fmt: skip
    assert all(issubclass(c, WeftlineError) for c in classes)
    assert {c.__name__ for c in classes} | {"nearest_names"} == set(errors.__all__)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (UnknownNameError("chip", "x", ()), 2),
        (InputErrors([InputError("x"), InputError("y")]), 2),
        (NoFeasiblePlanError("x"), 3),
        (ThresholdCrossedError("x"), 4),
        (OfflineError("x"), 1),
        (InternalError("x"), 1),
    ],
)
def test_exit_codes(error: WeftlineError, code: int) -> None:
    assert error.exit_code == code


def test_place_and_hint_are_shown() -> None:
    error = InputError("unknown field `dealine_s`", where="job.yaml:6", hint="`deadline_s`?")
    assert error.render() == "error: job.yaml:6: unknown field `dealine_s`\n\nhint: `deadline_s`?"
    assert str(error) == "job.yaml:6: unknown field `dealine_s`\n\nhint: `deadline_s`?"
    assert InputError("plain").render() == "error: plain"


def test_an_unknown_name_has_its_neighbours_and_the_hint() -> None:
    error = UnknownNameError("chip", "h10", ["h100", "a100", "trainium2"], hint="or see `list`")
    assert error.what == "unknown chip `h10`"
    assert error.nearest == ("h100",)
    assert error.hint == "did you mean `h100`? or see `list`"
    assert UnknownNameError("chip", "zzz", ["h100"]).hint is None


def test_several_mistakes_are_shown_together() -> None:
    both = InputErrors([InputError("one", where="a:1"), InputError("two", where="a:2")])
    assert both.render() == "error: a:1: one\nerror: a:2: two"
    assert both.what == "2 mistakes"


def test_no_feasible_plan_names_the_nearest_miss() -> None:
    error = NoFeasiblePlanError("70B on 8 x L4", nearest="16 x H100", hint="--precision fp8")
    assert error.render() == (
        "no feasible plan: 70B on 8 x L4\nnearest miss: 16 x H100\n\nhint: --precision fp8"
    )
    assert NoFeasiblePlanError("x").render() == "no feasible plan: x"


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("H100", ["h100", "h200"], ("h100", "h200")),
        ("deadlin", ["tokens", "deadline"], ("deadline",)),
        ("llama", ["llama-3.1-70b", "llama-3.1-8b", "qwen3-8b"], ("llama-3.1-8b", "llama-3.1-70b")),
        ("xyz", ["h100"], ()),
        ("", ["h100"], ()),
    ],
)
def test_nearest_names(name: str, known: list[str], found: tuple[str, ...]) -> None:
    assert nearest_names(name, known) == found
    assert len(nearest_names("a", [f"a{i}" for i in range(9)], count=2)) <= 2
