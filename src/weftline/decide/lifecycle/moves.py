"""Data gravity: what it costs to bring tokens to chips that train, and weights to the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from weftline.catalog import egress, storage_tiers
from weftline.decide.lifecycle.pieces import Piece
from weftline.decide.lifecycle.read import Stage
from weftline.decide.lifecycle.sites import Site
from weftline.decide.lifecycle.stages import number
from weftline.errors import InputError, UnknownNameError
from weftline.spec.lifecycle import LifeLine
from weftline.units import format_bytes, parse_bytes, parse_count

__all__ = ["Goods", "kept_bytes", "moved", "stored", "tier_of_store"]

TOKEN_BYTES: Final = 4.0
"""A token on disk, four bytes where the vocabulary is beyond 65,536."""
WEIGHT_BYTES: Final = 2.0
"""A published parameter, bf16."""
CHECKPOINT_BYTES: Final = 14.0
"""A parameter of a training checkpoint: bf16 weight, fp32 master weight and Adam's moments."""
PART_BYTES: Final = 64e6
"""Of one request to an object store, assumed: multipart uploads of 64 MB."""
OBJECT_TIERS: Final = {
    "aws": "aws.s3.standard", "gcp": "gcp.gcs.standard", "azure": "azure.blob.hot_lrs",
    "oci": "oci.object",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Goods:
    """Bytes that one stage makes and another needs, so many times."""

    stage: str
    """The stage that needs them, which pays."""
    size_bytes: float
    times: float
    what: str


def moved(goods: Goods, seller: str, region: str, origin: Site | None, to: Site) -> LifeLine | None:
    """The line of a move to ``to``; None where the bytes are there already.

    ``origin`` is the site they lie at, or None where only a seller is known.
    """
    volume = goods.size_bytes * goods.times
    if seller == to.seller:
        if not region or not to.region or region == to.region:
            return None
        usd, basis = _inter_region(seller, volume)
    elif origin is not None:
        usd, basis = origin.egress_usd(volume)
    else:
        table = egress(seller)
        usd, basis = table.usd(volume), f"price list: {table.source} of {table.date}"
    many = f"{goods.times:,.3g} x " if goods.times != 1 else ""
    return LifeLine(
        stage=goods.stage, part="egress", place=to.name, seller=seller, usd=usd, basis=basis,
        formula=f"{many}{format_bytes(goods.size_bytes)} of {goods.what}, {seller} to {to.seller}",
    )  # fmt: skip


def _inter_region(seller: str, volume: float) -> tuple[float, str]:
    try:
        table = egress(seller)
    except InputError:
        return 0.0, f"assumed: nothing, no price of {seller} is known"
    usd = table.inter_region_usd_per_gb * volume / 1e9
    return usd, f"price list between regions: {table.source} of {table.date}"


def stored(
    stage: Stage, of_stage: Stage | None, at: Site | None, life_months: float, parameters: int
) -> Piece:
    """Bytes kept for months, with the requests that brought them."""
    whole = kept_bytes(stage, of_stage, parameters)
    months = life_months if stage.get("months") is None else number(stage, "months")
    tier = storage_tiers().get(tier_of_store(stage, at))
    if tier is None:
        raise UnknownNameError("storage tier", stage.text("tier"), storage_tiers(),
                               where=stage.where("tier"))  # fmt: skip
    price = tier.usd_per_byte_month
    if price is None:
        raise InputError(f"`{tier.id}` has no price", where=stage.where("tier"))
    fact = tier.facts("price")[0]
    line = LifeLine(
        stage=stage.name, part="storage", place=tier.id, seller=tier.provider,
        usd=whole * price * months, basis=f"{fact.status}: {fact.source} of {fact.date}",
        formula=f"{format_bytes(whole)} x {months:.3g} months x ${price * 1e9:.3g} a GB",
    )  # fmt: skip
    lines = [line]
    put = tier.si("put")
    if put is not None:
        requests = whole / PART_BYTES
        source = tier.facts("put")[0]
        lines.append(LifeLine(
            stage=stage.name, part="requests", place=tier.id, seller=tier.provider,
            usd=requests * put, basis=f"{source.status}: {source.source}; parts of 64 MB, assumed",
            formula=f"{requests:,.0f} uploads x ${put * 1000:.3g} a 1,000",
        ))  # fmt: skip
    return Piece(stage=stage.name, kind=stage.kind, site=None, lines=tuple(lines),
                 said=f"{format_bytes(whole)} in {tier.id}", lasts_s=0.0,
                 shares=_even(months))  # fmt: skip


def _even(months: float) -> tuple[float, ...]:
    count = max(1, round(months))
    return (1 / count,) * count


def kept_bytes(stage: Stage, of: Stage | None, parameters: int) -> float:
    """Bytes that a store stage keeps, all copies. Raises InputError."""
    copies = parse_count(stage.text("copies"), where=stage.where("copies"))
    return _size(stage, of, parameters) * copies


def _size(stage: Stage, of: Stage | None, parameters: int) -> float:
    told = stage.get("size")
    if (told is None) == (of is None):
        raise InputError("how many bytes?", where=f"{stage.path}:{stage.line}",
                         hint="size: 60TB, or of: a stage that trains or preprocesses")  # fmt: skip
    if told is not None:
        return parse_bytes(told, where=stage.where("size"))
    if of is not None and of.kind == "preprocess":
        return parse_count(of.text("tokens"), where=of.where("tokens")) * TOKEN_BYTES
    if of is None or of.kind not in ("train", "finetune"):
        raise InputError(f"`{stage.get('of')}` makes no bytes to keep", where=stage.where("of"),
                         hint="a stage that trains or preprocesses")  # fmt: skip
    return parameters * CHECKPOINT_BYTES


def tier_of_store(stage: Stage, at: Site | None) -> str:
    """The tier that a stage asks for, or the object store of the place."""
    told = stage.get("tier")
    if told is not None:
        return told
    return OBJECT_TIERS.get(at.seller if at is not None else "", OBJECT_TIERS["aws"])
