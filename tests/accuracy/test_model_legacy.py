"""Families up to 2024 against transformers, on the meta device: parameters and FLOPs equal.

Nothing is downloaded and no weight is made: both sides start from the bundled configs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import weftline.model
from weftline.model import Model, Operator, load_model
from weftline.model.families.recurrent.mamba import ssd_flops
from weftline.model.load import bundled_index

torch = pytest.importorskip("torch")

FAMILIES = {
    "bert", "bloom", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_neox", "jamba", "mamba",
    "mamba2", "mistral", "opt", "phi", "phi3", "t5",
}  # fmt: skip
CONFIGS = Path(weftline.model.__file__).with_name("configs")


def raw_config(name: str) -> dict[str, Any]:
    file = bundled_index()[name].file
    config: dict[str, Any] = json.loads((CONFIGS / file).read_text()) if file else {}
    return config


NAMES = [
    name
    for name in bundled_index()
    if raw_config(name).get("model_type") in FAMILIES or name.startswith("llama-2-")
]
UNTIED_T5 = [name for name in NAMES if name.startswith("t5-v1.1")]


# transformers warns about kernels that are not installed and about its own arguments.
pytestmark = pytest.mark.filterwarnings("ignore")


def reference(transformers: Any, name: str, **changes: Any) -> Any:
    """transformers' own model of a bundled config, without memory behind its weights."""
    fields = raw_config(name)
    fields = fields.get("text_config", fields) | changes
    kind = fields.pop("model_type")
    fields.pop("torch_dtype", None)
    with torch.device("meta"):
        config = transformers.AutoConfig.for_model(kind, **fields)
        config._attn_implementation = "eager"
        config._experts_implementation = "batched_mm"
        match kind:
            case "t5":
                return transformers.T5ForConditionalGeneration(config).eval()
            case "bert":
                return transformers.BertForPreTraining(config).eval()
            case _:
                return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_every_family_is_covered() -> None:
    assert {raw_config(name)["model_type"] for name in NAMES} == FAMILIES | {"llama"}
    assert len(NAMES) >= 30


@pytest.mark.parametrize("name", NAMES)
def test_parameters_equal_transformers(transformers: Any, name: str) -> None:
    expected = sum(p.numel() for p in reference(transformers, name).parameters())
    model = load_model(name)
    if name in UNTIED_T5:
        # transformers 5 ties T5's output projection whatever the config says; the published v1.1
        # weights have one of their own.
        expected += model.vocab * model.hidden
    assert model.parameters == expected


@pytest.mark.parametrize("name", NAMES)
def test_parameters_near_what_the_makers_state(name: str) -> None:
    """Exact where a model card gives every digit, else rounded: OPT-350m is 331 M, T5-large 738."""
    model = load_model(name)
    stated = model.published_parameters
    if stated is None:
        return
    if stated % 1e6:
        assert model.parameters == stated
    assert model.parameters == pytest.approx(stated, rel=0.06)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"qk_layernorm": True, "num_key_value_heads": 4}, "phi-2"),
        ({"enable_bias": False, "layer_norm_elementwise_affine": False}, "opt-125m"),
        ({"_remove_final_layer_norm": True, "tie_word_embeddings": False}, "opt-350m"),
        ({"n_inner": 1000, "tie_word_embeddings": False}, "gpt2"),
        ({"attention_bias": False, "tie_word_embeddings": True}, "pythia-160m"),
        ({"attention_bias": True, "tie_word_embeddings": False}, "gemma-2-2b"),
        ({"attention_bias": True, "sliding_window_pattern": 3}, "gemma-3-1b"),
        ({"use_bias": True, "use_conv_bias": False, "time_step_rank": "auto"}, "mamba-130m"),
        ({"use_bias": True, "use_conv_bias": False, "n_groups": 4}, "mamba2-130m"),
        ({"mamba_proj_bias": True, "expert_layer_period": 4, "mamba_dt_rank": 7}, "jamba-v0.1"),
        ({"attn_layer_period": 3, "attn_layer_offset": 0, "num_experts": 1,
          "num_experts_per_tok": 1}, "jamba-v0.1"),
        ({"num_decoder_layers": 3, "feed_forward_proj": "gated-silu"}, "t5-small"),
        ({"num_hidden_layers": 3, "type_vocab_size": 4}, "bert-base"),
        ({"head_dim": 64, "tie_word_embeddings": True}, "mistral-7b-v0.1"),
    ],
)  # fmt: skip
def test_parameters_equal_with_unusual_switches(
    transformers: Any, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(raw_config(text) | changes))
    expected = sum(p.numel() for p in reference(transformers, text, **changes).parameters())
    assert load_model(config).parameters == expected


def counted(transformers: Any, name: str, seq_len: int) -> dict[str, float]:
    """FLOP of one forward pass by aten operator, from torch's counter.

    A mask of full size is handed in where transformers would otherwise look at values, which the
    meta device does not have.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = reference(transformers, name)
    kind = model.config.model_type
    with torch.device("meta"), torch.no_grad():
        tokens = torch.zeros(1, seq_len, dtype=torch.long)
        mask = torch.zeros(1, 1, seq_len, seq_len)
        arguments: dict[str, Any] = {"input_ids": tokens}
        if kind == "t5":
            arguments["decoder_input_ids"] = tokens
        elif kind.startswith("gemma"):
            arguments["attention_mask"] = {"full_attention": mask, "sliding_attention": mask}
        elif kind in ("gpt2", "gpt_neox", "jamba", "mistral", "phi", "phi3"):
            arguments["attention_mask"] = mask
        if kind != "bert":
            arguments["use_cache"] = False
        with FlopCounterMode(display=False) as counter:
            model(**arguments)
    counts = counter.get_flop_counts()["Global"]
    return {str(op).rpartition(".")[2]: float(flops) for op, flops in counts.items()}


@pytest.mark.parametrize(
    "name",
    ["gpt2", "opt-350m", "pythia-160m", "gpt-neox-20b", "bloom-560m", "mistral-7b-v0.1",
     "gemma-2-2b", "gemma-3-1b", "phi-1.5", "phi-3-mini", "t5-small", "t5-v1.1-base", "bert-base"],
)  # fmt: skip
def test_forward_flops_match_the_counter(transformers: Any, name: str) -> None:
    seq_len = 192
    expected = sum(counted(transformers, name, seq_len).values())
    ours = seq_len * load_model(name).forward_flops_per_token(seq_len, masked=False)
    # Equal but for what works on one position a sequence (BERT's pooler), which we leave out.
    assert ours == pytest.approx(expected, rel=1e-4)


def flops(model: Model, kind: str, seq_len: int) -> float:
    chosen = [op for op in model.operators if op.kind == kind]
    return seq_len * sum(op.forward_flops_per_token(seq_len, masked=False) for op in chosen)


def scans(model: Model) -> list[Operator]:
    return [op for op in model.operators if op.kind == "scan"]


def test_mamba2_products_convolution_and_scan_match_the_counter(transformers: Any) -> None:
    """One chunk of 256 tokens; transformers' scan repeats B and C for every head, so do we here."""
    model, seq_len = load_model("mamba2-130m"), 256
    counts = counted(transformers, "mamba2-130m", seq_len)
    assert flops(model, "gemm", seq_len) == counts["mm"]
    # Its convolution also computes the kernel - 1 outputs that it cuts off.
    assert flops(model, "conv", seq_len) == pytest.approx(counts["convolution"], rel=0.02)
    a_layer = ssd_flops(heads=24, head_dim=64, state=128, groups=24, chunk=256)
    assert len(scans(model)) * a_layer * seq_len == pytest.approx(counts["bmm"], rel=0.01)
    shared = ssd_flops(heads=24, head_dim=64, state=128, groups=1, chunk=256)
    assert [op.scan_flops_per_token for op in scans(model)] == [shared] * 24


def test_mamba_products_match_the_counter(transformers: Any) -> None:
    """The counter sees of a selective scan only ``C . h``, 2 of its 7 FLOP a state value."""
    model, seq_len = load_model("mamba-130m"), 32
    counts = counted(transformers, "mamba-130m", seq_len)
    assert flops(model, "gemm", seq_len) == counts["mm"]
    inner, state, layers = 1536, 16, 24
    assert counts["bmm"] == 2 * inner * state * layers * seq_len
    assert flops(model, "scan", seq_len) == (7 * state + 3) * inner * layers * seq_len


def test_jamba_products_match_the_counter(transformers: Any) -> None:
    model, seq_len = load_model("jamba-v0.1"), 16
    counts = counted(transformers, "jamba-v0.1", seq_len)
    scan_part = 2 * 8192 * 16 * len(scans(model)) * seq_len
    expected = sum(counts.values()) - counts["convolution"] - scan_part
    ours = sum(flops(model, kind, seq_len) for kind in ("gemm", "grouped_gemm", "attention"))
    assert ours == pytest.approx(expected, rel=0.01)
    assert model.active_parameters == pytest.approx(12e9, rel=0.02)
