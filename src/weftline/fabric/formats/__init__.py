"""Files other tools write and read: clusters, networks and schedules, told by their content."""

from weftline.fabric.formats.clusters.description import Description, Host
from weftline.fabric.formats.clusters.joined import topology_of
from weftline.fabric.formats.files import (
    IMPORTERS,
    Imported,
    import_fabric,
    read_topology,
    write_description,
    write_topology,
)
from weftline.fabric.formats.networks.networkx_json import from_networkx, to_networkx
from weftline.fabric.formats.schedules import (
    SCHEDULE_FORMATS,
    Program,
    export_schedule,
    read_schedule,
    write_files,
    write_schedule,
)

__all__ = [
    "IMPORTERS",
    "SCHEDULE_FORMATS",
    "Description",
    "Host",
    "Imported",
    "Program",
    "export_schedule",
    "from_networkx",
    "import_fabric",
    "read_schedule",
    "read_topology",
    "to_networkx",
    "topology_of",
    "write_description",
    "write_files",
    "write_schedule",
    "write_topology",
]
