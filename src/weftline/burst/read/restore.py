"""Restore: from the parts of a checkpoint to arrays, whole or the region a rank needs.

Only chunks that touch a wanted region are read. Every payload is checked; one that is damaged is
fetched from the next source that has it, and the caller is told. Memory in use is what is wanted,
and a buffer a thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from weftline.burst.commit.view import STREAMS
from weftline.burst.errors import MismatchError, TensorMissingError
from weftline.burst.files import LARGE_BYTES
from weftline.burst.log.record import Chunk, PartEntry, RankManifest, Seal
from weftline.burst.log.small import Place, unfolded
from weftline.burst.read.boxes import Box, flat_boxes, overlap
from weftline.burst.stage.arena import aligned_buffer
from weftline.burst.stage.state import Bytes1d, dtype_bytes, view_dtype

__all__ = [
    "Fetch",
    "Loaded",
    "Region",
    "Repair",
    "Target",
    "TensorInfo",
    "load_parts",
    "tensors_of",
]

Array = npt.NDArray[Any]

_ASKED_AT_ONCE: Final = 8
"""Chunks in one answer from afar: what a request costs is then little beside what it brings."""
_SPAN_BYTES: Final = 4 << 20
_GAP_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Memory to restore into: a block of the whole tensor."""

    data: Array
    """Any strides; its dtype must have the width of the tensor's."""
    offsets: tuple[int, ...] | None = None
    """Where the block starts in the whole tensor; zeros by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A record that was damaged or gone here and was taken from elsewhere."""

    tensor: str
    file: str
    offset_bytes: int
    what: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor of a checkpoint."""

    dtype: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    parts: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]
    """(rank, offsets, shape) of every block that was saved."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * dtype_bytes(self.dtype)


@dataclass(slots=True)
class Loaded(Mapping[str, Array]):
    """Tensor name -> array. Dtypes that NumPy lacks are shown as unsigned integers."""

    step: int
    arrays: dict[str, Array]
    dtypes: dict[str, str]
    extra: dict[str, Any]
    """What the lowest rank saved beside its tensors."""
    repaired: list[Repair] = field(default_factory=list)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class Fetch(Protocol):
    """Where chunks come from: this store, with its sources behind it."""

    def into(self, piece: Piece, out: Bytes1d, *, verify: bool) -> bool:
        """Read a chunk straight into page-aligned ``out``; False if that cannot be."""

    def afar(self, piece: Piece) -> bool:
        """Whether a chunk lies elsewhere only, as it was given."""

    def into_many(self, pieces: Sequence[Piece], rooms: Sequence[Bytes1d]) -> list[bool]:
        """Chunks of one rank from afar, each straight into its room: which of them came whole."""

    def raw(self, piece: Piece, *, verify: bool) -> Bytes1d:
        """The raw bytes of a chunk, valid until this thread's next call."""

    def many(self, pieces: Sequence[Piece], *, verify: bool) -> Iterator[tuple[Piece, Bytes1d]]:
        """The raw bytes of chunks that stand close together."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One chunk of one part of one rank."""

    seal: Seal
    entry: PartEntry
    index: int

    @property
    def chunk(self) -> Chunk:
        """Where it stands."""
        return self.entry.chunks[self.index]


@dataclass(slots=True)
class Region:
    """A wanted block: where it lies in the whole tensor, and the memory for it."""

    name: str
    box: Box
    out: Array
    """View of the unsigned or NumPy dtype of the tensor, shape as in ``box``."""
    padded: Bytes1d | None = None
    """The same memory as whole pages, when this room made it."""


Job = Callable[[], None]
_Far = tuple[Piece, Region, Bytes1d]
"""A chunk from afar, and where it goes straight to."""


def tensors_of(manifests: Iterable[RankManifest]) -> dict[str, TensorInfo]:
    """What tensors a checkpoint has. Raises MismatchError when ranks disagree on one."""
    found: dict[str, TensorInfo] = {}
    for m in manifests:
        for p, _ in unfolded(m.parts):
            block = (m.seal.rank, p.offsets, p.shape)
            have = found.get(p.name)
            if have is not None and (have.dtype, have.shape) != (p.dtype, p.global_shape):
                raise MismatchError(
                    f"ranks disagree on `{p.name}`: {have.dtype} {have.shape} and {p.dtype} "
                    f"{p.global_shape}",
                    hint="load the ranks one by one",
                )
            parts = (block,) if have is None else (*have.parts, block)
            found[p.name] = TensorInfo(dtype=p.dtype, shape=p.global_shape, parts=parts)
    return dict(sorted(found.items()))


# --- what to read -------------------------------------------------------------------------------


def _blocks(
    name: str,
    by_name: Mapping[str, list[tuple[Seal, PartEntry]]],
) -> list[tuple[Seal, PartEntry]]:
    """The parts of a tensor, each region once. Raises MismatchError when copies differ."""
    unique: dict[Box, tuple[Seal, PartEntry]] = {}
    for seal, part in by_name.get(name, []):
        box = (part.offsets, part.shape)
        first = unique.setdefault(box, (seal, part))
        same = [(c.raw_bytes, c.raw_hash) for c in first[1].chunks] == [
            (c.raw_bytes, c.raw_hash) for c in part.chunks
        ]
        if not same:
            raise MismatchError(
                f"ranks {first[0].rank} and {seal.rank} hold different values of `{name}`",
                where=f"checkpoint {seal.step}",
                hint=f"say which: ranks=[{seal.rank}]",
            )
    return list(unique.values())


def regions_for(
    infos: Mapping[str, TensorInfo],
    names: Iterable[str] | None,
    into: Mapping[str, Any] | None,
    *,
    where: str,
) -> list[Region]:
    """Memory for every wanted tensor, checked against what is stored, before anything is read.

    Raises TensorMissingError or MismatchError; nothing has been written then.
    """
    wanted = list(names) if names is not None else list(into if into is not None else infos)
    regions = []
    for name in wanted:
        info = infos.get(name)
        if info is None:
            raise TensorMissingError(name, infos, where=where)
        target = None if into is None else into.get(name)
        if target is None:
            regions.append(_own_region(name, info))
            continue
        target = target if isinstance(target, Target) else Target(data=target)
        offsets = (0,) * len(info.shape) if target.offsets is None else tuple(target.offsets)
        data = target.data
        width = dtype_bytes(info.dtype)
        if data.dtype.itemsize != width or (
            data.dtype.kind not in "uV" and data.dtype.name != info.dtype
        ):
            raise MismatchError(
                f"`{name}` is {info.dtype}; the target is {data.dtype.name}", where=where,
                hint="give a target of that dtype (or unsigned integers of its width)",
            )  # fmt: skip
        fits = len(data.shape) == len(info.shape) == len(offsets) and all(
            o >= 0 and o + n <= w for o, n, w in zip(offsets, data.shape, info.shape, strict=True)
        )
        if not fits:
            raise MismatchError(
                f"`{name}` has shape {info.shape}; a block of {data.shape} at {offsets} is not "
                "inside it",
                where=where,
            )
        regions.append(Region(name, (offsets, data.shape), data))
    return regions


def _own_region(name: str, info: TensorInfo) -> Region:
    kind = view_dtype(info.dtype)
    box = ((0,) * len(info.shape), info.shape)
    if info.nbytes < LARGE_BYTES:
        return Region(name, box, np.empty(info.shape, kind))
    padded = aligned_buffer(-(-info.nbytes // 4096) * 4096)
    return Region(name, box, padded[: info.nbytes].view(kind).reshape(info.shape), padded)


def _view(out: Array, region: Box, box: Box) -> Array:
    starts = [o - r for o, r in zip(box[0], region[0], strict=True)]
    cut: Any = [slice(a, a + n) for a, n in zip(starts, box[1], strict=True)]
    return out[(*cut, ...)]


def copy_chunk(piece: Piece, raw: Bytes1d, region: Region) -> None:
    """Copy what a chunk and a region share."""
    entry = piece.entry
    width = dtype_bytes(entry.dtype)
    start = piece.index * entry.chunk_bytes // width
    stop = start + len(raw) // width
    source_dtype = view_dtype(entry.dtype)
    out = region.out
    if out.dtype != source_dtype:
        out = out.view(source_dtype)  # of the same width, so any strides will do
    if (entry.offsets, entry.shape) == region.box and out.flags.c_contiguous:
        out.reshape(-1)[start:stop] = raw.view(source_dtype)
        return
    for at, (offsets, sizes) in flat_boxes(entry.shape, start, stop):
        here = (tuple(a + b for a, b in zip(offsets, entry.offsets, strict=True)), sizes)
        shared = overlap(here, region.box)
        if shared is None:
            continue
        count = math.prod(sizes)
        begin = (at - start) * width
        block = raw[begin : begin + count * width].view(source_dtype).reshape(sizes)
        np.copyto(_view(out, region.box, shared), _view(block, here, shared))


def needed(region: Region, blocks: Sequence[tuple[Seal, PartEntry]]) -> Iterator[Piece]:
    """The chunks that touch a region."""
    for seal, entry in blocks:
        if (entry.offsets, entry.shape) == region.box:
            yield from (Piece(seal, entry, k) for k in range(len(entry.chunks)))
            continue
        if overlap((entry.offsets, entry.shape), region.box) is None:
            continue
        width = dtype_bytes(entry.dtype)
        per = entry.chunk_bytes // width
        total = math.prod(entry.shape)
        for k in range(len(entry.chunks)):
            for _, (offsets, sizes) in flat_boxes(entry.shape, k * per, min(total, (k + 1) * per)):
                here = (tuple(a + b for a, b in zip(offsets, entry.offsets, strict=True)), sizes)
                if overlap(here, region.box) is not None:
                    yield Piece(seal, entry, k)
                    break


def check_covered(region: Region, blocks: Sequence[tuple[Seal, PartEntry]], where: str) -> None:
    """Raise MismatchError when the stored blocks leave a hole in the region."""
    if any((e.offsets, e.shape) == region.box for _, e in blocks):
        return
    shared = [overlap((e.offsets, e.shape), region.box) for _, e in blocks]
    have = sum(math.prod(box[1]) for box in shared if box is not None)
    if have < math.prod(region.box[1]):
        raise MismatchError(
            f"`{region.name}`: the checkpoint has only {have} of the {math.prod(region.box[1])} "
            "elements asked for",
            where=where,
            hint="some ranks' blocks are not in this checkpoint or were left out by `ranks=`",
        )


# --- reading ------------------------------------------------------------------------------------


def load_parts(
    manifests: Sequence[RankManifest],
    fetch: Fetch,
    pool: ThreadPoolExecutor,
    *,
    names: Iterable[str] | None,
    into: Mapping[str, Any] | None,
    verify: bool,
    where: str,
) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays and dtypes by name. Raises what ``fetch`` raises when a chunk cannot be had."""
    infos = tensors_of(manifests)
    regions = regions_for(infos, names, into, where=where)
    by_name: dict[str, list[tuple[Seal, PartEntry]]] = {}
    places: dict[int, Place] = {}
    for m in manifests:
        for p, place in unfolded(m.parts):
            by_name.setdefault(p.name, []).append((m.seal, p))
            if place is not None:
                places[id(p)] = place
    jobs: list[Job] = []
    shared: dict[tuple[int, int], tuple[Piece, list[tuple[Piece, Region, int]]]] = {}
    small: list[tuple[Piece, Region]] = []
    far: dict[int, list[_Far]] = {}
    for region in regions:
        blocks = _blocks(region.name, by_name)
        check_covered(region, blocks, where)
        for piece in needed(region, blocks):
            place = places.get(id(piece.entry))
            if place is not None:
                home = Piece(piece.seal, place.home, place.number)
                key = (id(place.home), place.number)
                shared.setdefault(key, (home, []))[1].append((piece, region, place.at))
            elif piece.chunk.stored_bytes < LARGE_BYTES:
                small.append((piece, region))
            elif (room := _direct_room(piece, region)) is not None and fetch.afar(piece):
                far.setdefault(piece.seal.rank, []).append((piece, region, room))
            else:
                jobs.append(_large_job(piece, region, room, fetch, verify))
    jobs += [_far_job(part, fetch, verify) for every in far.values() for part in _parted(every)]
    jobs += [_span_job(group, fetch, verify) for group in _spans(small)]
    jobs += [_shared_job(home, inner, fetch, verify) for home, inner in shared.values()]
    futures = [pool.submit(job) for job in jobs]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
    arrays = {r.name: r.out for r in regions}
    return arrays, {r.name: infos[r.name].dtype for r in regions}


def _large_job(
    piece: Piece, region: Region, room: Bytes1d | None, fetch: Fetch, verify: bool
) -> Job:
    def run() -> None:
        if room is not None and fetch.into(piece, room, verify=verify):
            return
        copy_chunk(piece, fetch.raw(piece, verify=verify), region)

    return run


def _parted(far: Sequence[_Far]) -> Iterator[Sequence[_Far]]:
    """What comes from one rank, in as many parts as streams bring it."""
    each = -(-len(far) // STREAMS)
    for start in range(0, len(far), each):
        yield far[start : start + each]


def _far_job(far: Sequence[_Far], fetch: Fetch, verify: bool) -> Job:
    """Chunks from afar, a few at a time: one request and one answer for each few."""

    def run() -> None:
        for start in range(0, len(far), _ASKED_AT_ONCE):
            few = far[start : start + _ASKED_AT_ONCE]
            rooms = [room[: piece.chunk.raw_bytes] for piece, _, room in few]
            came = fetch.into_many([piece for piece, _, _ in few], rooms)
            for (piece, region, _), whole in zip(few, came, strict=True):
                if not whole:
                    copy_chunk(piece, fetch.raw(piece, verify=verify), region)

    return run


def _direct_room(piece: Piece, region: Region) -> Bytes1d | None:
    """Where a chunk lies in the memory of a region, in one stretch; None where it does not.

    That is so for a block of whole rows of the region. To the room of the last chunk belongs what
    this room made for the rest of its page.
    """
    entry, (offsets, shape) = piece.entry, region.box
    out = region.out
    if not out.flags.c_contiguous or entry.shape[1:] != shape[1:]:
        return None
    inside = all(
        o <= e and e + n <= o + s
        for o, s, e, n in zip(offsets, shape, entry.offsets, entry.shape, strict=True)
    )
    if not inside:
        return None
    flat = out.reshape(-1).view(np.uint8) if region.padded is None else region.padded
    row = math.prod(shape[1:]) * dtype_bytes(entry.dtype)
    first = (entry.offsets[0] - offsets[0]) * row if shape else 0
    start = first + piece.index * entry.chunk_bytes
    end = start + piece.chunk.raw_bytes
    return flat[start : len(flat) if end == math.prod(shape) * dtype_bytes(entry.dtype) else end]


def _spans(small: list[tuple[Piece, Region]]) -> Iterator[list[tuple[Piece, Region]]]:
    """Small chunks in groups that one read can serve."""

    def place(item: tuple[Piece, Region]) -> tuple[int, str, int, int]:
        seal, chunk = item[0].seal, item[0].chunk  # writers of two nodes may have one name
        return seal.rank, seal.writer, chunk.segment, chunk.offset_bytes

    group: list[tuple[Piece, Region]] = []
    for item in sorted(small, key=place):
        if group:
            first, last, chunk = group[0][0].chunk, group[-1][0].chunk, item[0].chunk
            same = place(group[0])[:3] == place(item)[:3]
            end = last.offset_bytes + last.head_bytes + last.stored_bytes
            near = chunk.offset_bytes - end <= _GAP_BYTES
            if not same or not near or chunk.offset_bytes - first.offset_bytes > _SPAN_BYTES:
                yield group
                group = []
        group.append(item)
    if group:
        yield group


def _shared_job(
    home: Piece, inner: list[tuple[Piece, Region, int]], fetch: Fetch, verify: bool
) -> Job:
    """Small tensors that lie in one chunk."""

    def run() -> None:
        raw = fetch.raw(home, verify=verify)
        for piece, region, at in inner:
            copy_chunk(piece, raw[at : at + piece.chunk.raw_bytes], region)

    return run


def _span_job(group: list[tuple[Piece, Region]], fetch: Fetch, verify: bool) -> Job:
    def run() -> None:
        waiting = iter(group)
        for piece, raw in fetch.many([p for p, _ in group], verify=verify):
            expected, region = next(waiting)
            assert expected is piece  # noqa: S101  (order is part of the protocol)
            copy_chunk(piece, raw, region)

    return run
