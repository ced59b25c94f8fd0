"""InfraGraph's own blueprints as files: run by a Python that has ``infragraph`` installed.

Writes one YAML file a blueprint into a folder and prints, as JSON, how many accelerators and cables
its own expansion of each has: {name: [accelerators, cables]}.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from infragraph.blueprints.devices.amd.mi300x import MI300X
from infragraph.blueprints.devices.dell.xe9680 import Dellxe9680
from infragraph.blueprints.devices.dell.xe9680L import Dellxe9680L
from infragraph.blueprints.devices.dell.xe9685L import Dellxe9685L
from infragraph.blueprints.devices.generic.generic_switch import Switch
from infragraph.blueprints.devices.generic.server import Server
from infragraph.blueprints.devices.ironwood_rack import IronwoodRack
from infragraph.blueprints.devices.nvidia.dgx import NvidiaDGX
from infragraph.blueprints.fabrics.clos_fat_tree_fabric import ClosFatTreeFabric
from infragraph.blueprints.fabrics.closfabric import ClosFabric
from infragraph.blueprints.fabrics.dragonfly_fabric import DragonflyFabric
from infragraph.blueprints.fabrics.hybrid_debruijn_fabric import HybridDeBruijnFabric
from infragraph.blueprints.fabrics.multi_host_debruijn_fabric import MultiHostDeBruijnFabric
from infragraph.blueprints.fabrics.single_tier_fabric import SingleTierFabric
from infragraph.infragraph import Api
from infragraph.infragraph_service import InfraGraphService

MADE = {
    "server": Server,
    "mi300x": MI300X,
    "dgx": NvidiaDGX,
    "ironwood": IronwoodRack,
    "xe9680": Dellxe9680,
    "xe9680l": Dellxe9680L,
    "xe9685l": Dellxe9685L,
    "clos": ClosFabric,
    "single tier": lambda: SingleTierFabric(NvidiaDGX(), 4),
    "fat tree": lambda: ClosFatTreeFabric(Switch(16), NvidiaDGX(), 2, []),
    "dragonfly": lambda: DragonflyFabric(Switch(16), Server(), 4, 2, 2),
    "hybrid de bruijn": lambda: HybridDeBruijnFabric(Switch(16), Server(), 2),
    "de bruijn": lambda: MultiHostDeBruijnFabric(Switch(16), Server(), 2),
}


def whole(made):
    """A blueprint as an infrastructure; of a device, one instance."""
    if hasattr(made, "instances"):
        return made
    infrastructure = Api().infrastructure()
    infrastructure.devices.append(made)
    infrastructure.instances.add(name=made.name, device=made.name, count=1)
    return infrastructure


found = {}
for name, make in MADE.items():
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            infrastructure = whole(make())
            # First as text: its expansion writes choices without a value into what it reads.
            text = infrastructure.serialize("yaml")
            service = InfraGraphService()
            service.set_graph(infrastructure)
            graph = service.get_networkx_graph()
    except Exception as error:  # a blueprint that its own library refuses
        sys.stderr.write(f"{name}: {type(error).__name__}: {error}\n")
        continue
    (Path(sys.argv[1]) / f"{name}.yaml").write_text(text)
    chips = sum(data.get("type") in ("xpu", "npu", "gpu") for _, data in graph.nodes(data=True))
    found[name] = [chips, graph.number_of_edges()]
sys.stdout.write(json.dumps(found))
