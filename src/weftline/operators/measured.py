"""Operators of chips that measured tables speak for: their own, or their kin's carried over."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from weftline.operators.chips import Chip, kin_of
from weftline.operators.dtypes import CACHE_BYTES, canonical, number_format
from weftline.operators.lookup import Growth, carried, look_up, nodes
from weftline.operators.roofline import (
    Work,
    decode_work,
    expert_work,
    gemm_work,
    prefill_work,
)
from weftline.operators.spans import WINDOW_TILE
from weftline.operators.surface import FloatArray, Number, Surface, log2_axis, running_max
from weftline.operators.tables import measured, measured_keys, table

HEAD_DIMS = (64, 128, 192, 256)
STATE_VALUES = 128 * 128
"""Values of one head's recurrent state in the measured scans."""
_TILE = 128.0
"""Queries a kernel works on at once: a shorter window still costs whole tiles."""
_SPAN_NODES = (0.5, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


_WINDOWS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_FADED = 13.0
"""Log2 of the window (8,192) at which windowed kernels cost what their reach says: measured."""


class NoTableError(LookupError):
    """No measured table speaks for that operator on that chip: the prior prices it."""


class MeasuredTables:
    """Surfaces of one chip, made on first use and kept.

    ``chip.like`` names the chip whose tables are read; where it is another chip, or the number
    format asked for was not measured, the nearest table is carried over by the roofline.
    """

    def __init__(self, chip: Chip, *, profiled: bool = True) -> None:
        """``profiled`` reads the chip's own layer profile where there is one."""
        if chip.like is None:
            raise NoTableError(chip.name)
        self.chip = chip
        self.profiled = profiled
        self.kin = kin_of(chip.like)
        self.gemm_surface = lru_cache(maxsize=None)(self._gemm_surface)
        self.decode_surface = lru_cache(maxsize=None)(self._decode_surface)
        self.prefill_surface = lru_cache(maxsize=None)(self._prefill_surface)
        self.decode_mixed_surface = lru_cache(maxsize=None)(self._decode_mixed_surface)
        self.decode_window_surface = lru_cache(maxsize=None)(self._decode_window_surface)
        self.prefill_window_surface = lru_cache(maxsize=None)(self._prefill_window_surface)
        self.expert_surface = lru_cache(maxsize=None)(self._expert_surface)
        self.plain_surface = lru_cache(maxsize=None)(self._plain_surface)

    # -- rooflines

    def _here(self, work: Work, quantisation: str) -> FloatArray:
        chip = self.chip
        return work.seconds(
            chip.peak_flops(quantisation) * chip.reached_matrix,
            chip.bandwidth_bytes_per_s * chip.reached_memory,
        )

    def _there(self, work: Work, quantisation: str) -> FloatArray:
        return work.seconds(self.kin.peak_flops(quantisation), self.kin.bandwidth_bytes_per_s)

    # -- surfaces

    def _profile(self, operator: str, key: str) -> Surface | None:
        """The chip's own profiled table, on its own axes."""
        return measured("profile", operator, self.chip.name, key) if self.profiled else None

    def _gemm_surface(self, quantisation: str) -> Surface:
        if (own := self._profile("gemm", "bf16")) is not None:
            if quantisation == "bf16":
                return own
            m, n, k = nodes(own)
            there = self._here(gemm_work("bf16", m, n, k), "bf16")
            return carried(own, there, self._here(gemm_work(quantisation, m, n, k), quantisation))
        for key in number_format(quantisation).table:
            found = measured("gemm", "gemm", self.kin.name, key)
            if found is not None:
                break
        else:
            raise NoTableError(f"gemm {quantisation} on {self.chip.name}")
        if key == quantisation and self.kin.name == self.chip.name:
            return found
        m, n, k = nodes(found)
        there = self._there(gemm_work(key, m, n, k), key)
        return carried(found, there, self._here(gemm_work(quantisation, m, n, k), quantisation))

    def _attention_table(self, operator: str, dim: int, cache: str) -> tuple[Surface, str]:
        """The table of the nearest head size and cache format, and the format it was timed in."""
        wanted = "fp8" if CACHE_BYTES[cache] < 2 else "bf16"
        have = measured_keys("attention", operator, self.kin.name)
        same = [f"{dim}/{kv}" for kv in (wanted, "bf16", "fp8")]
        other = [f"{d}/{kv}" for kv in (wanted, "bf16") for d in (128, 64, 192, 256)]
        for key in (*same, *other):
            if key in have:
                return table("attention", operator, self.kin.name, key), key
        raise NoTableError(f"{operator} attention on {self.chip.name}")

    def _own_attention(self, operator: str, dim: int, cache: str) -> Surface | None:
        """The profiled table of 128-wide heads and bf16 caches, carried to other ones."""
        own = self._profile(operator, "128/bf16")
        if own is None or (dim, cache) == (128, "bf16"):
            return own
        work: Callable[..., Work] = prefill_work if operator == "prefill" else decode_work
        sizes = nodes(own)
        there = self._here(work("bf16", 128, *sizes), "bf16")
        return carried(own, there, self._here(work(cache, dim, *sizes), "bf16"))

    def _decode_surface(self, dim: int, cache: str) -> Surface:
        if (own := self._own_attention("decode", dim, cache)) is not None:
            return own
        found, key = self._attention_table("decode", dim, cache)
        timed_dim, timed_cache = int(key.split("/")[0]), key.split("/")[1]
        if self.kin.name == self.chip.name and key == f"{dim}/{cache}":
            return found
        context, streams, group = nodes(found)
        there = self._there(decode_work(timed_cache, timed_dim, context, streams, group), "bf16")
        here = self._here(decode_work(cache, dim, context, streams, group), "bf16")
        return carried(found, there, here)

    def _prefill_surface(self, dim: int, cache: str) -> Surface:
        """Tables over (new tokens, mean span of a query, streams, group).

        Measured are whole causal triangles (span = half the tokens). A chunk with cached context,
        or a window, is the same number of queries and of query-key pairs as a set of triangles
        twice the span long: it is priced as those, and no less than reading its keys once.
        """
        if (own := self._own_attention("prefill", dim, cache)) is not None:
            return own
        found, key = self._attention_table("prefill", dim, cache)
        timed_dim, timed_cache = int(key.split("/")[0]), key.split("/")[1]
        if self.kin.name != self.chip.name or key != f"{dim}/{cache}":
            tokens, streams, group = nodes(found)
            there = self._there(
                prefill_work(timed_cache, timed_dim, tokens, tokens / 2, streams, group), "bf16"
            )
            here = self._here(prefill_work(cache, dim, tokens, tokens / 2, streams, group), "bf16")
            found = carried(found, there, here)
        axes = (found.axes[0], log2_axis(_SPAN_NODES), found.axes[1], found.axes[2])
        grid = Surface(axes, np.zeros([len(a) for a in axes]))
        tokens, span, streams, group = nodes(grid)
        side = np.maximum(2.0 * span, np.minimum(tokens, _TILE))
        rows = streams * tokens / side
        inside = found.seconds(side, np.maximum(rows, 1.0), group) * np.minimum(rows, 1.0)
        inside = inside * np.maximum(side / 2.0 ** found.axes[0][-1], 1.0) ** 2
        inside = inside * np.maximum(rows / 2.0 ** found.axes[1][-1], 1.0)
        reach = np.minimum(2.0 * span, span + tokens / 2.0)
        read = self.decode_surface(dim, cache).seconds(reach, streams, group)
        least = found.seconds(np.minimum(tokens, side), streams, group)
        whole = np.broadcast_to(np.maximum(np.maximum(inside, read), least), grid.log2_s.shape)
        return Surface(axes, running_max(np.log2(whole)))

    def _decode_window_surface(self, dim: int, cache: str) -> Surface:
        """Decoding over a window: what that many keys and a tile cost, times the fitted ratio."""
        base = self.decode_surface(dim, cache)
        axes = (log2_axis(_WINDOWS), base.axes[1], base.axes[2])
        window, streams, group = nodes(Surface(axes, np.zeros([len(a) for a in axes])))
        grid = base.log2_seconds(window + WINDOW_TILE, streams, group)
        ratio = self._window_ratio("decode", dim, cache)
        if ratio is not None:
            grid = grid + _fading(window, dim) * ratio.log2_seconds(streams, group)
        return Surface(axes, running_max(grid))

    def _prefill_window_surface(self, dim: int, cache: str) -> Surface:
        base = self.prefill_surface(dim, cache)
        tokens, span, streams, group = nodes(base)
        grid = base.log2_s
        ratio = self._window_ratio("prefill", dim, cache)
        if ratio is not None:
            grid = grid + _fading(span, dim) * ratio.log2_seconds(tokens, streams, group)
        return Surface(base.axes, running_max(grid))

    def _window_ratio(self, operator: str, dim: int, cache: str) -> Surface | None:
        """Measured over priced time (log2), from the nearest head size and cache format."""
        have = measured_keys("window", operator, self.kin.name)
        wanted = "fp8" if CACHE_BYTES[cache] < 2 else "bf16"
        for key in (f"{dim}/{wanted}", f"{dim}/bf16", f"128/{wanted}", "128/bf16"):
            if key in have:
                found = table("window", operator, self.kin.name, key)
                return Surface(found.axes, found.log2_s - float(np.log2(1e-6)))
        return None

    def _expert_surface(self, operator: str, quantisation: str) -> Surface:
        if (own := self._profile("balanced", "bf16")) is not None:
            if quantisation == "bf16":
                return own
            pairs, used, width, hidden = nodes(own)
            used = np.minimum(used, pairs)
            there = self._here(expert_work("bf16", pairs, used, width, hidden), "bf16")
            here = self._here(expert_work(quantisation, pairs, used, width, hidden), quantisation)
            return carried(own, there, here)
        for key in number_format(quantisation).table:
            found = measured("moe", operator, self.kin.name, key)
            found = found or measured("moe", "skewed", self.kin.name, key)
            if found is not None:
                break
        else:
            raise NoTableError(f"experts {quantisation} on {self.chip.name}")
        if key == quantisation and self.kin.name == self.chip.name:
            return found
        pairs, used, width, hidden = nodes(found)
        used = np.minimum(used, pairs)
        there = self._there(expert_work(key, pairs, used, width, hidden), key)
        here = self._here(expert_work(quantisation, pairs, used, width, hidden), quantisation)
        return carried(found, there, here)

    def _plain_surface(self, operator: str) -> Surface:
        """Scans and convolutions: bound by bandwidth, so carried over by it."""
        source = self.kin.name
        found = measured("other", operator, source, "bf16")
        if found is None:  # an architecture without such kernels measured: the next one's
            source = "h100-sxm"
            found = measured("other", operator, source, "bf16")
        if found is None:
            raise NoTableError(f"{operator} on {self.chip.name}")
        if source == self.chip.name:
            return found
        there = np.asarray(1.0 / kin_of(source).bandwidth_bytes_per_s)
        return carried(found, there, np.asarray(1.0 / self.chip.bandwidth_bytes_per_s))

    # -- times

    def gemm_s(self, quantisation: str, m: Number, n: Number, k: Number) -> FloatArray:
        """Seconds of (m, k) times (k, n)."""
        return look_up(self.gemm_surface(canonical(quantisation)), (m, n, k))

    def decode_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of one query a sequence over ``context`` keys."""
        growth = {2: self._group_growth(cache)}
        return look_up(self.decode_surface(dim, cache), (context, streams, group), growth)

    def prefill_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of ``tokens`` queries a stream, each seeing ``span`` keys in the mean."""
        return look_up(self.prefill_surface(dim, cache), (tokens, span, streams, group))

    def decode_mixed_s(
        self, cache: str, context: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds that decoding adds to a launch it shares with a prompt.

        The same as alone where no mixed launch was profiled.
        """
        surface = self.decode_mixed_surface(dim, cache)
        return look_up(surface, (context, streams, group), {2: self._group_growth(cache)})

    def _decode_mixed_surface(self, dim: int, cache: str) -> Surface:
        own = self._own_attention("decode_mixed", dim, cache)
        return self.decode_surface(dim, cache) if own is None else own

    def decode_window_s(
        self, cache: str, window: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of one query a sequence over the last ``window`` of more keys."""
        growth = {2: self._group_growth(cache)}
        return look_up(self.decode_window_surface(dim, cache), (window, streams, group), growth)

    def prefill_window_s(
        self, cache: str, tokens: Number, span: Number, streams: Number, group: Number, dim: int
    ) -> FloatArray:
        """Seconds of ``tokens`` queries whose window lets them see ``span`` keys in the mean."""
        return look_up(self.prefill_window_surface(dim, cache), (tokens, span, streams, group))

    def experts_s(
        self,
        quantisation: str,
        pairs: Number,
        used: Number,
        width: Number,
        hidden: Number,
        skew: float,
    ) -> FloatArray:
        """Seconds of one rank's experts; ``skew`` 0 is balanced, 1.2 the power law measured."""
        name = canonical(quantisation)
        sizes = (pairs, used, width, hidden)
        share = min(max(skew / 1.2, 0.0), 1.0)
        found = np.zeros(())
        if share < 1.0:
            found = self._experts("balanced", name, sizes) * (1.0 - share)
        if share > 0.0:
            found = found + share * self._experts("skewed", name, sizes)
        return found

    def _experts(self, operator: str, name: str, sizes: tuple[Number, ...]) -> FloatArray:
        """Beyond the grid pairs (products) and experts used (weights) are one work, not two."""
        return look_up(self.expert_surface(operator, name), sizes, together=(0, 1))

    def _group_growth(self, cache: str) -> Growth:
        """Growth with the query heads of one cache: none until its products outlast its reading."""
        read = CACHE_BYTES[cache] / self.chip.bandwidth_bytes_per_s
        product = 2.0 / self.chip.peak_flops("bf16")

        def factor(size: FloatArray, edge: float) -> FloatArray:
            return np.maximum(size * product, read) / max(edge * product, read)

        return factor

    def scan_s(self, decode: bool, tokens: Number, batch: Number, heads: Number) -> FloatArray:
        """Seconds of a recurrent update with 128 x 128 states, ``tokens`` a sequence."""
        if decode:
            return look_up(self.plain_surface("scan_decode"), (batch, heads))
        return look_up(self.plain_surface("scan_prefill"), (tokens, batch, heads))

    def convolution_s(self, decode: bool, rows: Number, channels: Number) -> FloatArray:
        """Seconds of a short causal convolution over ``rows`` tokens of ``channels``."""
        name = "conv_decode" if decode else "conv_prefill"
        return look_up(self.plain_surface(name), (rows, channels))


def _fading(window: FloatArray, dim: int) -> FloatArray:
    """How much of the fitted ratio holds at a window: all at the one measured, none at 8,192."""
    measured_at = 10.0 if dim >= 256 else 7.0
    return np.clip((_FADED - np.log2(window)) / (_FADED - measured_at), 0.0, 1.0)


def plain_table(chip: Chip, operator: str) -> Surface:
    """Elementwise or sampling time over bytes: the chip's own profile, or one carried over.

    Bound by bandwidth; the RTX PRO 6000's profile stands in where a chip has none.
    """
    own = measured("profile", operator, chip.name, "bytes")
    if own is not None:
        return own
    source = kin_of("rtx-pro-6000")
    found = table("profile", operator, source.name, "bytes")
    there = np.asarray(1.0 / source.bandwidth_bytes_per_s)
    return carried(found, there, np.asarray(1.0 / chip.bandwidth_bytes_per_s))
