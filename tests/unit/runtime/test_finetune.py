"""From a local folder of weights: every one, or adapters beside them; and what a run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import SEQUENCE, SEQUENCES, byte_shards, layout, losses, own_text, recipe, trained

from weftline.errors import InputError
from weftline.runtime.data.shards import open_shards

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_shards(tmp_path_factory.mktemp("data"), own_text())


@pytest.fixture(scope="module")
def first(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, and the folder of weights that it leaves."""
    folder = tmp_path_factory.mktemp("first")
    trained(recipe("qwen3_moe", data, layout(), steps=6), folder)
    return folder


def test_fine_tuning_begins_where_the_weights_are(data: Path, first: Path, tmp_path: Path) -> None:
    """The first loss is transformers' own, of the folder that the first run left."""
    model = transformers.AutoModelForCausalLM.from_pretrained(first / "model")
    batch = torch.from_numpy(
        open_shards(data, seq_len=SEQUENCE).sequences(0, range(SEQUENCES), seq_len=SEQUENCE, seed=0)
    )
    with torch.no_grad():
        logits = model(batch[:, :-1]).logits
    wanted = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
    assert wanted < losses(first)[0] - 0.2  # not random weights
    kept = {"weights": str(first / "model"), "learning_rate": 1e-6, "steps": 2}
    trained(recipe("qwen3_moe", data, layout(tp=2), sequence_parallel=True, **kept), tmp_path)
    assert losses(tmp_path)[0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers by an old name
def test_adapters_train_alike_on_one_process_and_on_two(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    whole = tmp_path / "whole"
    trained(recipe("llama", data, layout(), steps=1), whole)
    found = []
    for name, cut in (("one", layout()), ("two", layout(dp=2, zero=3))):
        folder = tmp_path / name
        made = recipe(
            "llama", data, cut, weights=str(whole / "model"), tune="lora", rank=4, steps=3,
            learning_rate=1e-2,
        )  # fmt: skip
        trained(made, folder)
        found.append(losses(folder))
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(whole / "model")
    before = base(torch.arange(32)[None]).logits.detach()
    tuned = PeftModel.from_pretrained(base, str(tmp_path / "two" / "model"))
    after = tuned(torch.arange(32)[None]).logits.detach()
    assert not torch.allclose(before, after)
    check_served(tmp_path / "two" / "model", whole / "model", after)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [
    {"pp": 2}, {"pp": 2, "schedule": "zero-bubble"}, {"pp": 2, "vp": 2, "schedule": "interleaved"},
    {"dp": 2, "pp": 2, "zero": 3}, {"cp": 2},
])  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3_moe"])
def test_adapters_train_alike_in_pipelines(
    family: str, cut: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    trained(recipe(family, data, layout(), steps=1), tmp_path / "base")
    found = []
    for name, parts in (("one", {}), ("many", cut)):
        made = recipe(
            family, data, layout(**parts), weights=str(tmp_path / "base" / "model"), tune="lora",
            rank=4, steps=4, learning_rate=1e-2,
        )  # fmt: skip
        trained(made, tmp_path / name)
        found.append(losses(tmp_path / name))
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[0][-1] < found[0][0] - 0.05


def check_served(adapters: Path, base: Path, wanted: torch.Tensor) -> None:
    """What a server finds in that folder, and what it makes of it."""
    from weftline.launch.serving import vllm_command
    from weftline.runtime.server.engine.adapters import beside, merged
    from weftline.runtime.server.options import EngineOptions, ServerOptions

    assert beside(adapters) == base
    assert beside(base) is None
    one = merged(transformers.AutoModelForCausalLM.from_pretrained(base), adapters)
    torch.testing.assert_close(one(torch.arange(32)[None]).logits.detach(), wanted)
    words, _ = vllm_command(None, adapters, adapters, EngineOptions(), ServerOptions(name="mine"))
    assert words[:3] == ["vllm", "serve", str(base)]
    at = words.index("--enable-lora")
    assert words[at:] == ["--enable-lora", "--lora-modules", f"mine={adapters}",
                          "--max-lora-rank", "8"]  # fmt: skip
    assert "--served-model-name" not in words
    named = adapters / "adapter_config.json"
    named.write_text(named.read_text().replace(str(base), "somebody/elsewhere"))
    with pytest.raises(InputError, match="`somebody/elsewhere`, which is no folder here"):
        beside(adapters)
