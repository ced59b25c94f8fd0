"""The attention policy of a model: what it was trained with, and another in its place.

A policy replaces full attention only. Layers that were trained with windows, chunks, selection or
merged entries keep theirs: taking keys from those would be another model still.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache

from weftline.errors import InputError
from weftline.model.ir import Attention, Layer, Model, Operator
from weftline.model.load import load_model
from weftline.model.once import once_per_model
from weftline.spec.attention import DENSE, AttentionPolicy, LayerRules, Rule
from weftline.spec.attention_text import parse_policy, policy_text

__all__ = ["asked_policy", "changed_layers", "model_under", "policy_of", "with_policy"]


def _cores(layer: Layer) -> list[Attention]:
    """The layer's own causal attention, not its indexer's and not to an encoder."""
    return [
        op.attention for op in layer.operators
        if op.attention is not None and op.attention.causal and not op.attention.cross
        and op.attention.v_dim > 0
    ]  # fmt: skip


def policy_of(model: Model) -> AttentionPolicy:
    """What the model was trained with: the rule most layers have, and the layers with others.

    Layers without attention count as dense. Its cache frees what its windows cannot see.
    """
    pairs: dict[tuple[Rule, Rule], list[int]] = {}
    for layer in model.layers:
        core = next(iter(_cores(layer)), None)
        pair = (DENSE, DENSE) if core is None else (core.rule, core.decoding)
        pairs.setdefault(pair, []).append(layer.index)
    if not pairs:
        return AttentionPolicy()
    most = Counter({pair: len(layers) for pair, layers in pairs.items()}).most_common(1)[0][0]
    others = tuple(
        LayerRules(layers=tuple(layers), prefill=pair[0], decode=pair[1])
        for pair, layers in pairs.items() if pair != most
    )  # fmt: skip
    selects = any(rule.selects for pair in pairs for rule in pair)
    return AttentionPolicy(
        prefill=most[0], decode=most[1], layers=others, kv="keep" if selects else "free"
    )


def changed_layers(model: Model, policy: AttentionPolicy) -> tuple[int, ...]:
    """Layers in which queries would see fewer keys than the model was trained with."""
    return tuple(
        layer.index for layer in model.layers
        if any(core.rule == DENSE for core in _cores(layer))
        and (policy.rule(layer.index, "prefill"), policy.rule(layer.index, "decode"))
        != (DENSE, DENSE)
    )  # fmt: skip


@once_per_model
def with_policy(model: Model, policy: AttentionPolicy) -> Model:
    """The model under a policy. Raises InputError where the policy changes nothing or names a layer
    that the model does not have."""
    if policy.is_dense:
        return model
    beyond = [i for own in policy.layers for i in own.layers if i >= len(model.layers)]
    if beyond:
        raise InputError(
            f"layer {beyond[0]} of the policy: {model.name} has layers 0 to {len(model.layers) - 1}"
        )
    changed = set(changed_layers(model, policy))
    if not changed:
        raise InputError(
            f"no layer of {model.name} attends to all tokens: the policy changes nothing",
            hint="it was trained with rules of its own; leave the policy out",
        )
    layers = tuple(
        replace(layer, operators=_under(layer, policy)) if layer.index in changed else layer
        for layer in model.layers
    )
    return replace(model, layers=layers)


def _under(layer: Layer, policy: AttentionPolicy) -> tuple[Operator, ...]:
    prefill, decode = policy.rule(layer.index, "prefill"), policy.rule(layer.index, "decode")
    cores = _cores(layer)
    made = []
    for op in layer.operators:
        a = op.attention
        if a is not None and any(a is core for core in cores) and a.rule == DENSE:
            ruled = replace(
                a, rule=prefill, decode_rule=None if decode == prefill else decode,
                keeps=policy.kv == "keep",
            )  # fmt: skip
            made.append(replace(op, attention=ruled))
        else:
            made.append(op)
    return tuple(made)


def model_under(name: str, policy: str = "", model: Model | None = None) -> Model:
    """The model of that name, or ``model``, under the policy that ``policy`` says."""
    known = load_model(name) if model is None else model
    return with_policy(known, _parsed(policy)) if policy else known


_parsed = lru_cache(maxsize=64)(parse_policy)


def asked_policy(text: str | None, name: str, *, where: str = "--policy") -> str:
    """A policy as jobs keep it: in one text, whether it came from a file or not; "" for none.

    Raises InputError(s) for what is no policy, or none for the model of that name. A model that
    cannot be loaded is left to who loads it.
    """
    if not text:
        return ""
    policy = parse_policy(text, where=where)
    try:
        model = load_model(name)
    except InputError:
        return policy_text(policy)
    try:
        with_policy(model, policy)
    except InputError as error:
        error.where = error.where or where
        raise
    return "" if policy.is_dense else policy_text(policy)
