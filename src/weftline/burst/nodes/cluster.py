"""The nodes of a run as one process sees them: whom to give copies to, and what to go back to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from weftline.burst.commit.commits import Commit, decode_commit
from weftline.burst.commit.coordinate import adopt
from weftline.burst.commit.identity import open_identity
from weftline.burst.errors import BurstError, StorageError
from weftline.burst.files import RealFiles, local_folder
from weftline.burst.nodes.agree import (
    Choice,
    Seen,
    choose,
    run_of,
    survey_bucket,
    survey_node,
    survey_store,
)
from weftline.burst.nodes.partners import partners
from weftline.burst.nodes.shares import ShareCopier, share_id
from weftline.burst.nodes.source import NodeSource
from weftline.burst.remote.checkpoints import RemoteSource, open_objects
from weftline.burst.remote.objects import (
    CredentialsError,
    ObjectMissingError,
    RemoteError,
)
from weftline.burst.remote.peers import PeerObjects
from weftline.burst.store import Store
from weftline.errors import InputError

if TYPE_CHECKING:
    from weftline.burst.commit.view import RecordId, Source
    from weftline.burst.log.record import Prepared
    from weftline.burst.options import Options
    from weftline.burst.read.reading import StoreReader
    from weftline.burst.stage.state import Bytes1d

__all__ = [
    "NODES_VARIABLE", "Nodes", "choose_from", "commits_at", "nodes_from_environment",
    "open_to_restore", "sources_at",
]  # fmt: skip

T = TypeVar("T")

NODES_VARIABLE: Final = "WEFTLINE_BURST_NODES"
_NODE: Final = re.compile(r"(?:peer://)?(?P<host>[^/@\s]+?)(?P<port>:\d+)?(?:@(?P<domain>\S+))?")
_TRIES: Final = 2
"""Connections to a node before another is asked: a node that is gone must not hold up the rest."""
_PATIENCE_S: Final = 20.0
"""So long the only nodes that have a share are asked for it again when they break off."""
_ASKING: Final = 16
"""Nodes that are asked at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The nodes of a run, the same list on each; every one runs ``weftline burst peer``."""

    urls: tuple[str, ...]
    """``peer://host:port`` of each node, this one's too."""
    mine: int
    """Which of them this process runs on, from 0."""
    run: str | None = None
    """Name of the run; by default that of rank 0's store."""
    copies: int = 1
    """Nodes that keep a copy of a share in memory; 0 for none."""
    domains: tuple[str, ...] = ()
    """What each node fails together with: its rack. Every node for itself by default."""
    bucket: str | None = None
    """Where checkpoints drain to, and come from when no node has them: ``s3://bucket/run``."""
    opened: dict[str, PeerObjects | RemoteSource] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not 0 <= self.mine < len(self.urls):
            raise InputError(f"node {self.mine} of {len(self.urls)}", where="nodes", hint="from 0")
        if not 0 <= self.copies < max(2, len(self.urls)):
            raise InputError(
                f"{self.copies} copies on {len(self.urls) - 1} other nodes", where="nodes"
            )
        if self.domains and len(self.domains) != len(self.urls):
            raise InputError(
                f"{len(self.domains)} failure domains for {len(self.urls)} nodes", where="nodes"
            )

    # --- saving ----------------------------------------------------------------------------------

    def copier(self) -> ShareCopier | None:
        """What gives copies of this process's shares to other nodes; None where none are kept."""
        if self.copies == 0 or len(self.urls) < 2:
            return None
        domains = self.domains or tuple(str(i) for i in range(len(self.urls)))
        order = partners(domains, self.mine)
        return ShareCopier(
            [PeerObjects.open(self.urls[i], tries=_TRIES) for i in order], copies=self.copies
        )

    # --- restoring -------------------------------------------------------------------------------

    def survey(
        self, store: StoreReader | None, *, nodes: Iterable[int] | None = None, bucket: bool = True
    ) -> list[Seen]:
        """What is where: in this store, on ``nodes`` (all by default), and in the bucket.

        A node that does not answer has nothing. Raises RemoteError for the bucket.
        """
        found = [] if store is None else [survey_store(store)]
        these = range(len(self.urls)) if nodes is None else nodes
        asked = [self.node(self.urls[i]) for i in these]
        if len(asked) < 2:
            found += map(survey_node, asked)
        else:
            with ThreadPoolExecutor(min(_ASKING, len(asked))) as pool:
                found += pool.map(survey_node, asked)
        if bucket and self.bucket is not None:
            found.append(survey_bucket(self.objects(self.bucket)))
        return found

    def choose(
        self,
        store: StoreReader | None = None,
        *,
        step: int | None = None,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[list[Seen]], list[Seen]] | None = None,
    ) -> Choice:
        """The newest checkpoint that is whole somewhere, or that of ``step``.

        Alone, this process asks every node and the bucket. Of ``world`` ranks each asks its share
        of the nodes, rank 0 the bucket too, and ``gather`` gives every rank what all of them found:
        one collective. Raises CheckpointMissingError, MismatchError for several runs.
        """
        asked = range(rank, len(self.urls), world)
        seen = self.survey(store, nodes=asked, bucket=rank == 0)
        if gather is not None:
            seen = gather(seen)
        run = self.run
        if run is None and store is not None and store.view.commits.steps():
            run = store.view.run
        return choose(seen, run=run, step=step, where=", ".join(self.urls[:4]))

    def ready(self, store: Store, choice: Choice) -> None:
        """Let a store load the checkpoint that was chosen, from wherever its shares are.

        Its record is put into the store where that is open for writing. Raises MismatchError for
        the store of another run.
        """
        store.view.sources = tuple(self.sources(choice))
        store.join(run_of(choice.commit))
        with suppress(StorageError):  # a disk that cannot be written can still be read
            adopt(store.view, choice.record)
        for step, lost in choice.passed_over:
            store.note(f"passed over step {step}: ranks {list(lost)} are lost with their nodes")

    def sources(self, choice: Choice | None = None) -> list[Source]:
        """Where to read from: nodes in memory or on disk, this one first, and the bucket last.

        With ``choice`` only who has a share is asked for it.
        """
        own = self.urls[self.mine]
        urls = sorted(self.urls, key=lambda u: u != own)
        of = {u: self.node(u) for u in urls}
        found: list[Source] = list(of.values())
        if choice is not None:
            found = [_Holders(choice, of, bucket=self.bucket is not None)]
        if self.bucket is not None:
            found.append(self.objects(self.bucket))
        return found

    def node(self, url: str) -> NodeSource:
        """Another node, to read from."""
        known = self.opened.get(url)
        if not isinstance(known, PeerObjects):
            known = self.opened[url] = PeerObjects.open(url, tries=_TRIES)
        return NodeSource(known)

    def objects(self, url: str) -> RemoteSource:
        """The bucket, to read from."""
        known = self.opened.get(url)
        if not isinstance(known, RemoteSource):
            known = self.opened[url] = RemoteSource(open_objects(url))
        return known

    def close(self) -> None:
        """Close all connections."""
        for one in self.opened.values():
            if isinstance(one, PeerObjects):
                one.close()
        self.opened.clear()


class _Holders:
    """The nodes that have the shares of one checkpoint, as one source."""

    name = "nodes"

    def __init__(
        self, choice: Choice, nodes: Mapping[str, NodeSource], *, bucket: bool = False
    ) -> None:
        self._choice = choice
        self._patience_s = 0.0 if bucket else _PATIENCE_S
        self._broken_since_s: dict[int, float] = {}
        self._of = {
            rank: [nodes[u] for u in nodes if u in places]
            for rank, places in choice.holders.items()
        }

    def commit(self, step: int) -> bytes:
        """Its record."""
        if step != self._choice.commit.step:
            raise KeyError(step)
        return self._choice.record

    def manifest(self, share: Prepared) -> bytes:
        """See :class:`Source`."""
        return self._first(share, lambda node: node.manifest(share))

    def fetch_into(
        self, share: Prepared, records: Sequence[RecordId], outs: Sequence[Bytes1d]
    ) -> list[int]:
        """See :class:`Source`."""
        return self._first(share, lambda node: node.fetch_into(share, records, outs))

    def _first(self, share: Prepared, ask: Callable[[NodeSource], T]) -> T:
        """The first answer of a node that has this share.

        Where no bucket is behind them, nodes that broke off are all there is: they are asked again
        until none has answered for ``_PATIENCE_S``, as one that is started anew needs. Raises
        KeyError where no node has the share, and the last node's RemoteError where none answers.
        """
        if share_id(share) != share_id(self._choice.commit.ranks[share.rank]):
            raise KeyError(f"rank {share.rank} of another checkpoint")
        pause_s = 0.1
        while True:
            broken: RemoteError | None = None
            for node in self._of.get(share.rank, ()):
                try:
                    answer = ask(node)
                except CredentialsError:
                    raise
                except (KeyError, ObjectMissingError):
                    continue
                except RemoteError as error:
                    broken = error.with_traceback(None)  # which would hold this frame
                except BurstError:
                    continue
                else:
                    self._broken_since_s.pop(share.rank, None)
                    return answer
            if broken is None:
                raise KeyError(f"no node has rank {share.rank} of step {share.step}")
            now_s = time.monotonic()
            if now_s - self._broken_since_s.setdefault(share.rank, now_s) >= self._patience_s:
                try:
                    raise broken
                finally:
                    del broken
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 2.0)
            for node in self._of[share.rank]:
                node.node.ask_again()


def choose_from(urls: Sequence[str], step: int | None = None) -> tuple[Choice, list[Source]]:
    """The newest checkpoint that is whole over these nodes and object stores, and where from.

    Raises CheckpointMissingError, RemoteError for an object store, InputError for no such URL.
    """
    nodes = {u: NodeSource(PeerObjects.open(u, tries=_TRIES)) for u in urls if is_peer(u)}
    seen = [survey_node(node) for node in nodes.values()]
    stores = [RemoteSource(open_objects(u)) for u in urls]
    for store in stores:
        # On a node, too, checkpoints may lie as in a bucket: those that were drained to it.
        with suppress(RemoteError) if is_peer(store.name) else nullcontext():
            seen.append(survey_bucket(store))
    choice = choose(seen, step=step, where=", ".join(urls[:4]))
    return choice, [_Holders(choice, nodes), *stores]


def sources_at(url: str) -> list[Source]:
    """What a store can read from a URL: a node's memory and store, and what was drained there."""
    drained = RemoteSource(open_objects(url))
    return [NodeSource(PeerObjects.open(url)), drained] if is_peer(url) else [drained]


def commits_at(url: str) -> list[Commit]:
    """Checkpoints that an object store has whole, or that a node has a record of, oldest first."""
    records = [c.commit for c in RemoteSource(open_objects(url)).checkpoints()]
    if is_peer(url):
        records += NodeSource(PeerObjects.open(url)).found().records
    found = [decode_commit(record, path=url) for record in dict.fromkeys(records)]
    return sorted(found, key=lambda c: c.order)


def is_peer(url: str) -> bool:
    """Whether a URL is that of a node."""
    return url.startswith("peer://")


def open_to_restore(path: str | os.PathLike[str], options: Options | None = None) -> Store:
    """A store to read from, made if the folder is empty: a new node has none yet.

    Raises as :meth:`Store.open`.
    """
    root = str(local_folder(os.fspath(path)).resolve())
    open_identity(RealFiles(), root, create=True)
    return Store.open(root, read_only=True, options=options)


def nodes_from_environment(*, mine: int | None = None, run: str | None = None) -> Nodes | None:
    """The nodes that WEFTLINE_BURST_NODES lists, or None where it is not set.

    ``host[:port][@rack]``, by spaces or commas, in the order of nodes; this one is ``mine``, or
    SLURM_NODEID or GROUP_RANK (torchrun). WEFTLINE_BURST_COPIES and WEFTLINE_BURST_BUCKET go with
    it. Raises InputError.
    """
    text = os.environ.get(NODES_VARIABLE, "").replace(",", " ").split()
    if not text:
        return None
    if mine is None:
        said = os.environ.get("SLURM_NODEID") or os.environ.get("GROUP_RANK")
        if said is None or not said.isdecimal():
            raise InputError(
                "which of the nodes this is cannot be told", where=NODES_VARIABLE,
                hint="start with srun or torchrun, or pass mine=",
            )  # fmt: skip
        mine = int(said)
    urls, domains = [], []
    for item in text:
        found = _NODE.fullmatch(item)
        if found is None:
            raise InputError(
                f"`{item}` is no node", where=NODES_VARIABLE, hint="write host:port@rack"
            )
        urls.append(f"peer://{found['host']}{found['port'] or ''}")
        domains.append(found["domain"] or found["host"])
    copies = os.environ.get("WEFTLINE_BURST_COPIES", "1")
    if not copies.isdecimal():
        raise InputError(f"`{copies}` is no number of copies", where="WEFTLINE_BURST_COPIES")
    return Nodes(
        urls=tuple(urls), mine=mine, run=run, copies=int(copies), domains=tuple(domains),
        bucket=os.environ.get("WEFTLINE_BURST_BUCKET") or None,
    )  # fmt: skip
