"""FLOPs of a forward pass against torch's own counter, on the meta device at full depth.

The counter sees matrix products and convolutions, so it is compared with what we count for them:
attention as the full rectangle, for transformers' eager attention computes it. Experts run as
batched products, which work on exactly the experts a token is routed to, whatever the routing: the
meta device has no scores to route by. Llama 4 (all experts computed for every token) and Step 3.7
(looks for image tokens' values) do not run this way and are held by their parameters alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import weftline.model
from weftline.model import load_model
from weftline.model.load import bundled_index

torch = pytest.importorskip("torch")

CONFIGS = Path(weftline.model.__file__).with_name("configs")
SAME_CLASS = {"kimi_k2": "deepseek_v3", "mimo": "qwen2", "minimax_m3": "minimax_m3_vl_text"}


# transformers warns about kernels that are not installed and about its own arguments.
pytestmark = pytest.mark.filterwarnings("ignore")


def reference(transformers: Any, name: str) -> Any:
    fields = json.loads((CONFIGS / str(bundled_index()[name].file)).read_text())
    for key in ("auto_map", "quantization_config"):
        fields.pop(key, None)
    kind = fields.pop("model_type")
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(SAME_CLASS.get(kind, kind), **fields)
        try:
            model = transformers.AutoModelForCausalLM.from_config(config)
        except ValueError:
            model = transformers.AutoModelForImageTextToText.from_config(config)
    for part in (model.config, model.config.get_text_config()):
        part._attn_implementation = "eager"
        part._experts_implementation = "batched_mm"
    return model.eval()


def counted(transformers: Any, name: str, seq_len: int) -> dict[str, float]:
    """FLOP of one forward pass by aten operator.

    A full mask is handed in, or transformers would look at values to make one.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = reference(transformers, name)
    with torch.device("meta"), torch.no_grad():
        arguments = {"input_ids": torch.zeros(1, seq_len, dtype=torch.long), "use_cache": False}
        if not name.startswith("gpt-oss"):
            arguments["attention_mask"] = torch.zeros(1, 1, seq_len, seq_len)
        with FlopCounterMode(display=False) as counter:
            model(**arguments)
    counts = counter.get_flop_counts()["Global"]
    return {str(op).rpartition(".")[2]: float(flops) for op, flops in counts.items()}


def ours(name: str, seq_len: int) -> float:
    return seq_len * load_model(name).forward_flops_per_token(seq_len, masked=False)


@pytest.mark.parametrize("seq_len", [128, 320])
@pytest.mark.parametrize(
    "name",
    ["smollm2-135m", "llama-3.1-8b", "qwen3-8b", "qwen3-30b-a3b", "qwen3-vl-2b", "mixtral-8x7b",
     "gpt-oss-20b", "deepseek-v3", "kimi-k2", "minimax-m2.5", "mimo-7b", "mimo-v2-flash",
     "gemma-4-26b-a4b"],
)  # fmt: skip
def test_products_and_attention_are_the_counters(
    transformers: Any, name: str, seq_len: int
) -> None:
    expected = sum(counted(transformers, name, seq_len).values())
    assert ours(name, seq_len) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["deepseek-v3.2", "glm-5.2", "minimax-m3", "deepseek-v4-flash"])
def test_sparse_attention_is_near_the_counters(transformers: Any, name: str) -> None:
    """The rest is transformers' weighting of indexer heads and mixing of streams by products.

    128 tokens are DeepSeek-V4's local window: beyond it, eager attention computes what the mask
    then throws away.
    """
    expected = sum(counted(transformers, name, 128).values())
    assert ours(name, 128) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "name",
    ["qwen3.5-27b", "qwen3.5-35b-a3b", "nemotron-h-56b", "nemotron-3-nano-30b-a3b",
     "nemotron-3-ultra-550b-a55b"],
)  # fmt: skip
def test_recurrent_models_are_near_the_counters(transformers: Any, name: str) -> None:
    """Dense products to the digit; in sum within 1 %, because a scan's work depends on its kernel.

    transformers runs the delta rule token by token or in chunks of 64, and Mamba-2 in chunks with
    B and C repeated for every head; we count the plain recurrence, and chunks that share B and C.
    """
    seq_len = 128
    counts = counted(transformers, name, seq_len)
    model = load_model(name)
    products = [op for op in model.operators if op.kind == "gemm"]
    dense = sum(op.forward_flops_per_token(seq_len) for op in products) * seq_len
    assert dense == counts["mm"]
    assert ours(name, seq_len) == pytest.approx(sum(counts.values()), rel=0.01)
