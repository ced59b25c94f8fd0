"""Traffic: when requests come, how long their prompts and answers are, what prefixes they share.

Synthetic (Poisson, Gamma bursts, diurnal), the bundled traces (Azure 2023, Mooncake), or a file of
the user's. Everything random takes a seed and the result says which.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import numpy as np

from weftline.errors import InputError, UnknownNameError
from weftline.spec import Traffic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BUNDLED: Final = ("azure-2023-code", "azure-2023-conv", "mooncake-conversation")
"""Traces that come with weftline."""
MOONCAKE_BLOCK_TOKENS: Final = 512
"""Tokens of one hashed prefix block in Mooncake's traces (last one of a prompt may be short)."""
DAY_S: Final = 86400.0


def poisson(
    rate_per_s: float, requests: int, *, prefill_tokens: int, decode_tokens: int, seed: int = 0,
    spread: float = 0.0,
) -> Traffic:  # fmt: skip
    """Independent arrivals. ``spread`` is as in :func:`lengths`."""
    return gamma(
        rate_per_s, requests, prefill_tokens=prefill_tokens, decode_tokens=decode_tokens,
        burstiness=1.0, seed=seed, spread=spread,
    )  # fmt: skip


def gamma(
    rate_per_s: float, requests: int, *, prefill_tokens: int, decode_tokens: int,
    burstiness: float, seed: int = 0, spread: float = 0.0,
) -> Traffic:  # fmt: skip
    """Gaps from a Gamma distribution whose squared coefficient of variation is ``burstiness``.

    1 is Poisson, 4 is bursty, below 1 is more even than chance. Raises InputError.
    """
    _check(rate_per_s, requests, burstiness)
    rng = np.random.default_rng(seed)
    gaps = rng.gamma(1.0 / burstiness, burstiness / rate_per_s, requests)
    arrived = np.cumsum(gaps)
    kind = "Poisson" if burstiness == 1.0 else f"Gamma {burstiness:g}"
    return Traffic(
        name=kind, arrived_s=arrived - arrived[0],
        prefill_tokens=lengths(prefill_tokens, requests, spread, rng),
        decode_tokens=lengths(decode_tokens, requests, spread, rng), seed=seed,
    )  # fmt: skip


def diurnal(
    rate_per_s: float, requests: int, *, prefill_tokens: int, decode_tokens: int,
    peak_ratio: float = 2.0, period_s: float = DAY_S, burstiness: float = 1.0, seed: int = 0,
    spread: float = 0.0,
) -> Traffic:  # fmt: skip
    """A rate that swings as a sine around its mean, peak over mean ``peak_ratio`` (1 to 2).

    Starts at the trough. Arrivals of a steady process are moved so that the count up to time t is
    that of the swinging rate (time change of a renewal process).
    """
    if not 1.0 <= peak_ratio <= 2.0:
        raise InputError(
            f"a peak of {peak_ratio:g} x the mean is not a sine that stays above zero",
            hint="between 1 and 2",
        )
    steady = gamma(
        rate_per_s, requests, prefill_tokens=prefill_tokens, decode_tokens=decode_tokens,
        burstiness=burstiness, seed=seed, spread=spread,
    )  # fmt: skip
    swing, turn = peak_ratio - 1.0, 2 * np.pi / period_s
    # Mean arrivals by time t over the mean rate: t - swing * sin(turn t) / turn; inverted on a
    # grid a thousandth of a period wide, far finer than the swing.
    end = float(steady.arrived_s[-1]) + period_s
    grid = np.arange(0.0, end + period_s / 1000, period_s / 1000)
    counted = grid - swing * np.sin(turn * grid) / turn
    arrived = np.interp(steady.arrived_s, counted, grid)
    return replace(
        steady, name=f"{steady.name}, diurnal, peak {peak_ratio:g} x",
        arrived_s=arrived,
    )  # fmt: skip


def lengths(mean: int, count: int, spread: float, rng: np.random.Generator) -> Ints:
    """``count`` token counts of mean ``mean``; log-normal with ``spread`` as sigma, 0 for equal."""
    if spread == 0.0:
        return np.full(count, mean, dtype=np.int64)
    drawn = mean * np.exp(rng.normal(-(spread**2) / 2, spread, count))
    return np.asarray(np.maximum(1, np.rint(drawn)), dtype=np.int64)


@cache
def bundled(name: str) -> Traffic:
    """A trace that comes with weftline. Raises UnknownNameError with the nearest names."""
    if name not in BUNDLED:
        hint = f"one of {', '.join(BUNDLED)}, or a CSV file"
        raise UnknownNameError("trace", name, BUNDLED, hint=hint)
    with (
        files("weftline.serve").joinpath(f"data/traces/{name}.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as held,
    ):
        arrays = {key: held[key].astype(np.int64) for key in held.files}
    starts = ids = None
    if "hash_delta" in arrays:
        starts = np.concatenate([[0], np.cumsum(arrays["hash_counts"])]).astype(np.int64)
        ids = np.cumsum(arrays["hash_delta"])
    return Traffic(
        name=name, arrived_s=np.cumsum(arrays["arrived_delta_100us"]) / 1e4,
        prefill_tokens=arrays["prefill_tokens"], decode_tokens=arrays["decode_tokens"],
        hash_starts=starts, hash_ids=ids,
    )  # fmt: skip


def at_rate(traffic: Traffic, rate_per_s: float) -> Traffic:
    """The same requests with all gaps scaled, so that the mean rate is ``rate_per_s``."""
    _check(rate_per_s, traffic.requests, 1.0)
    factor = traffic.rate_per_s / rate_per_s
    if traffic.follows is None or traffic.wait_s is None:
        return replace(traffic, arrived_s=traffic.arrived_s * factor)
    return replace(traffic, arrived_s=_starts_scaled(traffic, factor))


def _starts_scaled(traffic: Traffic, factor: float) -> Floats:
    """Nominal times where gaps between sessions are scaled and what is within them is not.

    The order of requests stays, so that a turn may be named before it is due by as much.
    """
    out: Floats = traffic.arrived_s * factor
    if traffic.follows is not None and traffic.wait_s is not None:
        for i in np.flatnonzero(traffic.follows >= 0):
            out[i] = out[traffic.follows[i]] + traffic.wait_s[i]
    return np.maximum.accumulate(out)


def extended(traffic: Traffic, requests: int) -> Traffic:
    """The trace played again and again (shifted by its span) or cut, to ``requests`` requests.

    A copy brings new text: its prefix blocks are numbered apart from those of other copies.
    """
    if requests < 1:
        raise InputError(f"{requests} requests: at least one is needed")
    n = traffic.requests
    copies = -(-requests // n)
    which = np.arange(copies * n) // n
    at = np.arange(copies * n) % n
    starts = ids = None
    if traffic.hash_starts is not None and traffic.hash_ids is not None:
        counts = np.diff(traffic.hash_starts)[at[:requests]]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        apart = int(traffic.hash_ids.max()) + 1
        copy = np.arange(copies)[:, None] * apart
        ids = (traffic.hash_ids[None, :] + copy).ravel()[: int(starts[-1])]
    follows = wait = None
    if traffic.follows is not None and traffic.wait_s is not None:
        follows = np.where(traffic.follows[at] >= 0, traffic.follows[at] + which * n, -1)[:requests]
        wait = traffic.wait_s[at][:requests]
    return replace(
        traffic, follows=follows, wait_s=wait,
        arrived_s=(traffic.arrived_s[at] + which * traffic.span_s)[:requests],
        prefill_tokens=traffic.prefill_tokens[at][:requests],
        decode_tokens=traffic.decode_tokens[at][:requests],
        hash_starts=starts, hash_ids=ids,
    )  # fmt: skip


def _check(rate_per_s: float, requests: int, burstiness: float) -> None:
    if not (np.isfinite(rate_per_s) and rate_per_s > 0):
        raise InputError(f"{rate_per_s:g} requests a second: must be above zero")
    if requests < 1:
        raise InputError(f"{requests} requests: at least one is needed")
    if not (np.isfinite(burstiness) and burstiness > 0):
        raise InputError(f"a burstiness of {burstiness:g}: must be above zero")
