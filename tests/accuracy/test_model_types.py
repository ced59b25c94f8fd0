"""Every model type of transformers: exact to the digit, or refused by name; nothing in between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from model_types import MORE, comparable, ours, silent_differences, small_config, theirs

import weftline.model
from weftline.errors import InputError
from weftline.model import load_model
from weftline.model.config import HFConfig
from weftline.model.families import BUILDERS
from weftline.model.families.multimodal import MULTIMODAL
from weftline.model.known import config_class, transformers_types
from weftline.model.load import bundled_index, load_config
from weftline.runtime.meta import meta_model

pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = Path(weftline.model.__file__).parent
NAMED = json.loads((DATA / "data" / "unchecked.json").read_text(encoding="utf-8"))
UNCHECKED, OWN_WAY = NAMED["types"], NAMED["fields"]
ACCEPTED = sorted({*BUILDERS, *MULTIMODAL})
SAMPLE = ("qwen2_moe", "glm4_moe", "falcon", "cohere2", "deepseek_v2", "bamba", "qwen3_next",
          "granitemoehybrid", "lfm2", "llava", "gemma3", "qwen3_vl", "whisper", "modernbert",
          "albert", "siglip_vision_model", "dinov3_vit", "mpt", "starcoder2",
          "gpt_oss", "clip", "deberta", "deberta-v2", "doge", "ernie4_5_vl_moe", "esm", "jetmoe",
          "recurrent_gemma")  # fmt: skip
"""Of every way to build a model one, for the suite; the slow form takes all."""
FUZZED = ("llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "mixtral", "gemma3_text", "phi3",
          "falcon", "glm4_moe", "deepseek_v2", "deepseek_v3", "cohere2", "olmo2", "ernie4_5_moe",
          "granitemoehybrid", "bamba", "qwen3_next", "lfm2", "gpt_oss", "laguna", "llava",
          "gemma3", "qwen3_vl", "bert", "roberta", "modernbert", "bart", "whisper", "vit",
          "qwen2_5_vl_vision", "mamba2", "jamba", "nemotron_h", "gemma3n_text", "zamba2",
          "mllama", "t5", "clip", "deberta", "deberta-v2", "doge", "ernie4_5_vl_moe", "esm",
          "jetmoe", "recurrent_gemma")  # fmt: skip


def check(transformers: Any, kind: str) -> None:
    fields = small_config(transformers, kind)
    count, headed = theirs(fields)
    assert comparable(ours(fields), headed) == count, kind


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_type_is_exact(transformers: Any, kind: str) -> None:
    check(transformers, kind)


@pytest.mark.slow
def test_every_type_is_exact_or_refused(transformers: Any) -> None:
    """All that transformers knows, and none of them a silent default."""
    exact, refused = [], []
    for kind in transformers.CONFIG_MAPPING:
        if kind in UNCHECKED:
            continue
        if kind in ACCEPTED:
            check(transformers, kind)
            exact.append(kind)
            continue
        try:
            fields = small_config(transformers, kind)
        except Exception:  # a class that is no model without more fields
            fields = {}
        fields["model_type"] = kind  # some types share another's class, which writes its own name
        with pytest.raises(InputError, match=f"`{kind}`"):
            ours(fields)
        refused.append(kind)
    assert len(exact) >= 150
    assert len(exact) + len(refused) + len(UNCHECKED) >= 800


def test_a_tower_without_a_class_of_its_own_is_exact_where_it_stands(transformers: Any) -> None:
    fields = small_config(transformers, "ernie4_5_vl_moe")
    named = meta_model(fields).named_parameters()
    theirs = sum(math.prod(p.shape) for name, p in named if "vision_tower" in name)
    (tower,) = ours(fields).left_out
    assert (tower.what, tower.parameters) == ("vision tower", theirs)


LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "mlp_only_layers",
         "cross_attention_layers", "indexer_types")  # fmt: skip


@pytest.mark.parametrize("layers", [7, 10])
def test_layers_that_a_file_does_not_list_are_as_in_the_class(
    transformers: Any, layers: int
) -> None:
    """A pattern left out is the class's own: a window changes no parameter, but cache and FLOPs.

    Nemotron-H's has to be stated.
    """
    checked = 0
    for kind in BUILDERS:
        if kind in (*MORE, *UNCHECKED, "nemotron_h") or kind not in transformers_types():
            continue
        fields = small_config(transformers, kind, layers)
        bare = {key: value for key, value in fields.items() if key not in LISTS}
        if bare != fields and len(fields.get("layer_types") or [0] * layers) == layers:
            assert ours(bare).layers == ours(fields).layers, kind
            checked += 1
    assert checked >= 40


def test_what_is_unchecked_is_accepted_and_no_more() -> None:
    assert set(UNCHECKED) <= set(ACCEPTED)
    assert len(UNCHECKED) <= len(ACCEPTED) / 10
    outside = {kind for kind in ACCEPTED if kind not in transformers_types()}
    assert outside <= set(UNCHECKED)


@pytest.mark.parametrize("kind", ["qwen2_moe", "gemma3"])
def test_no_single_change_differs_silently(transformers: Any, kind: str) -> None:
    taken, found = silent_differences(transformers, kind)
    assert taken > 40
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUZZED)
def test_no_single_change_differs_silently_in_many_families(transformers: Any, kind: str) -> None:
    taken, found = silent_differences(transformers, kind)
    assert taken > 20
    assert [said for said in found if said.partition(":")[0] not in OWN_WAY] == []


# -- what transformers writes -------------------------------------------------------------------


FLAT_STEP = "transformers does not read the published flat file: it makes its default model"
TIED_T5 = "transformers 5 ties T5's output projection whatever the config says"
NOT_THE_SAME = {"step-3.7-flash": FLAT_STEP, "t5-v1.1-base": TIED_T5, "t5-v1.1-xxl": TIED_T5}
SAVED = [
    name
    for name, entry in bundled_index().items()
    if entry.file and name not in NOT_THE_SAME
    and json.loads((DATA / "configs" / entry.file).read_text()).get("model_type")
    in transformers_types()
]  # fmt: skip


@pytest.mark.parametrize("diff", [True, False], ids=["diff", "full"])
def test_what_transformers_saves_is_the_same_model(transformers: Any, diff: bool) -> None:
    """Each bundled config through its class's ``to_json_string`` and back."""
    assert len(SAVED) > 150
    for name in SAVED:
        fields = json.loads((DATA / "configs" / str(bundled_index()[name].file)).read_text())
        fields.pop("auto_map", None)
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        saved = load_config(HFConfig(config.to_json_string(use_diff=diff), name, name=name))
        before = load_model(name)
        assert saved.layers == before.layers, name
        assert (saved.embedding, saved.head) == (before.embedding, before.head), name
        assert saved.max_seq_len == before.max_seq_len, name
        assert saved.kv_bytes(100_000) == before.kv_bytes(100_000), name


def test_the_classes_are_those_of_the_installed_release(transformers: Any) -> None:
    """``data/classes.json`` is what ``python -m weftline.runtime.classes`` would write."""
    for kind in SAMPLE:
        class_ = transformers.CONFIG_MAPPING[kind]
        assert config_class(kind).aliases == dict(class_.attribute_map)
        for name, value in config_class(kind).defaults.items():
            default = class_.__dataclass_fields__[name].default
            assert value == (list(default) if isinstance(default, tuple) else default), name
