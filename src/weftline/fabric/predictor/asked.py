"""``fabric.predict``: one collective on any network, asked for in one call."""

from __future__ import annotations

from weftline.errors import InputError
from weftline.fabric.graph import Topology
from weftline.fabric.predictor.machines import Harness, Machine, known_library
from weftline.fabric.predictor.names import collective_name
from weftline.fabric.predictor.networks import machine_of, machine_on
from weftline.fabric.predictor.predict import CollectivePrediction, calibration
from weftline.spec import Cluster


def predict(
    collective: str,
    size_bytes: float,
    ranks: int | None,
    network: Topology | Cluster | Machine | str,
    library: str = "auto",
    *,
    version: str = "",
    host: str = "auto",
    algorithm: str = "auto",
    harness: Harness = "unsaid",
) -> CollectivePrediction:
    """Seconds of a collective with a band of 90 % and its parts.

    ``size_bytes`` is nccl-tests' size: the output of an all-gather, the input of everything else.
    ``ranks``: how many take part, the first ones; None for all. ``network`` is a topology, a
    cluster, a machine, or a text as ``simulate collective`` takes it. ``library`` is one of nccl,
    rccl, neuron, xla, oneccl, gloo, or auto: the chip's own; ``version`` its version (2.27).
    ``host`` is bypass, tcp, virtual or auto. Raises InputError for what is not known, among them
    networks of no known chips: ``choose`` times schedules on those at link rate.
    """
    kind = collective_name(collective)
    if not size_bytes >= 0:
        raise InputError(f"a collective of {size_bytes:g} bytes", hint="sizes are 0 or more")
    made = _machine(network, ranks, known_library(library), version, host)
    return calibration().predict(made, kind, size_bytes, algorithm=algorithm, harness=harness)


def _machine(
    network: Topology | Cluster | Machine | str,
    ranks: int | None,
    library: str,
    version: str,
    host: str,
) -> Machine:
    if isinstance(network, Machine):
        return network
    if isinstance(network, Cluster):
        return machine_on(network, ranks or network.chips, library=library, host=host)
    if isinstance(network, str):
        from weftline.fabric.parse import parse_topology

        network = parse_topology(network)
    found = machine_of(network, ranks=ranks, library=library, version=version, host=host)
    if found is None:
        raise InputError(
            f"of `{network.name}` no chips and no library are known",
            hint="`fabric.choose` times its schedules at link rate",
        )
    return found
