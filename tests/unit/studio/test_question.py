"""A question as form, URL and command line: one meaning, and nothing that opens a file."""

from __future__ import annotations

import json
import shlex
import sys
import zlib
from base64 import urlsafe_b64encode
from dataclasses import fields
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weftline.errors import InputError
from weftline.spec.job_file import OPTIONS, JobKind
from weftline.spec.options import JobOptions
from weftline.studio.controls import EXAMPLES, FILES_ONLY, chips, controls, groups
from weftline.studio.question import MOST_CONFIG_BYTES, Question, read_question

LLAMA = json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2})


def read(kind: JobKind, **more: str) -> Question:
    return read_question({"kind": kind, **EXAMPLES[kind], **more}.items())


@pytest.mark.parametrize("kind", ["train", "serve"])
def test_every_option_is_one_control_in_one_group(kind: JobKind) -> None:
    options = {f.name for options in OPTIONS[kind] for f in fields(options)}
    shown = [c.name for group in groups(kind) for c in group.controls]
    assert sorted(shown) == sorted(options - FILES_ONLY)
    assert all(c.help and c.label and c.option.startswith("--") for c in controls(kind).values())


_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=30)


@settings(max_examples=40)
@given(tokens=_WORDS, region=_WORDS, layout=_WORDS, overlap=st.booleans(), name=_WORDS)
def test_a_url_means_what_the_form_meant(
    tokens: str, region: str, layout: str, overlap: bool, name: str
) -> None:
    sent = {"tokens": tokens or "1T", "region": region, "layout": layout, "model": name,
            "overlap": "on" if overlap else "off", "config_text": LLAMA}  # fmt: skip
    asked = read_question(sent.items())
    assert read_question(parse_qsl(asked.query())) == asked
    assert shlex.split(asked.command()) == asked.words()
    assert "/" not in asked.file_name
    assert not asked.file_name.startswith((".", "-"))


def test_what_is_a_default_is_not_said() -> None:
    asked = read("train", objective="cost-time", overlap="on", seq=" ", on="")
    assert asked.command() == "weftline plan train llama-3.1-8b --tokens 1T --max-chips 512"
    assert asked.options() == (JobOptions(tokens="1T", max_chips="512"),)
    asked = read("serve", prefix_cache="on", region="-x", seed="0", burstiness="2")
    assert " --region=-x " in asked.command()
    assert asked.command().endswith("--burstiness 2.0 --prefix-cache")
    off = read("train", overlap="off")
    assert off.words()[-1] == "--no-overlap"


def test_marked_chips_are_joined() -> None:
    pairs = [("model", "llama-3.1-8b"), ("tokens", "1T"), ("on", "h100-sxm"), ("on", "b200")]
    assert read_question(pairs).values["on"] == "h100-sxm,b200"
    everything = [("on", name) for rows in chips().values() for name, _ in rows]
    asked = read_question([*pairs, *everything])
    assert read_question(parse_qsl(asked.query())) == asked


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        ({"model": "../../etc/passwd"}, "model"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "llama/../x"}, "model"),
        ({"model": "<script>alert(1)</script>"}, "model"),
        ({"model": ""}, "model"),
        ({"tokens": ""}, "--tokens"),
        ({"seq": "9" * 401}, "--seq"),
        ({"region": "a\nb"}, "--region"),
        ({"objective": "glory"}, "--objective"),
        ({"policy": "../p.yaml"}, "--policy"),
        ({"policy": "{a: &a [1], b: [*a]}"}, "--policy"),
        ({"config": "AAAA"}, "config"),
        ({"config_text": "[1]"}, "config"),
        ({"config_text": "{"}, "config"),
        ({"config_text": '{"a":' * 70 + "1" + "}" * 70}, "config"),
        ({"config_text": '{"a":' * 30000 + "1" + "}" * 30000}, "config"),
        ({"config_text": json.dumps({"a": "x" * MOST_CONFIG_BYTES})}, "config"),
        ({"config_text": "x" * (1 << 20)}, "config"),
    ],
)
def test_what_no_question_is_is_refused_with_its_place(sent: dict[str, str], where: str) -> None:
    with pytest.raises(InputError) as caught:
        read("train", **sent)
    errors = getattr(caught.value, "errors", (caught.value,))
    assert where in {e.where for e in errors}


@pytest.mark.parametrize("sent", [{"daily": "rates.csv"}, {"trace": "/etc/trace.csv"},
                                  {"turns": "1e9"}, {"spread": "nonsense"}])  # fmt: skip
def test_files_and_nonsense_are_refused_in_traffic(sent: dict[str, str]) -> None:
    with pytest.raises(InputError):
        read("serve", **sent)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(InputError) as caught:
        read("train", model="", tokens="", objective="x", seq="1" * 500)
    assert len(caught.value.errors) == 4  # type: ignore[attr-defined]


def test_a_config_that_unpacks_to_too_much_is_not_unpacked() -> None:
    bomb = urlsafe_b64encode(zlib.compress(b" " * (64 << 20), 9)).decode()
    with pytest.raises(InputError, match="not whole"):
        read("train", config=bomb)


@pytest.mark.parametrize("kind", ["train", "serve"])
def test_nothing_that_is_sent_is_opened(
    kind: JobKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's name in any field, absolute or not, is read by no reader of questions or jobs."""
    from weftline.plan import job_of
    from weftline.serve.search.asked import serve_job_of

    marker = tmp_path / "marker.yaml"
    marker.write_text("prefill: window=512\n")
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    watching = True
    sys.addaudithook(lambda event, args: opened.append(str(args[0]))
                     if watching and event == "open" else None)  # fmt: skip
    passed = 0
    for name in ("model", "as", "config", *controls(kind)):
        for text in (str(marker), "marker.yaml", "./marker.yaml", f"x={marker}"):
            try:
                asked = read(kind, **{name: text})
                if kind == "train":
                    job_of(asked.model_asked, *asked.options())
                else:
                    serve_job_of(asked.model_asked, *asked.options())
                passed += 1
            except InputError:
                continue
    watching = False
    assert passed >= 4  # the hook saw jobs being made
    assert [name for name in opened if "marker" in name] == []
