"""Networks of links: graphs, simulators' topologies, fabric discovery."""
