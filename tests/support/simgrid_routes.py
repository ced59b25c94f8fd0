"""SimGrid's own routes: run by a Python that has its bindings (Debian's python3-simgrid).

Prints, for hosts of a platform, [from, to, bytes a second of the slowest link, seconds] as JSON.
"""

import json
import sys

from simgrid import Engine  # type: ignore[import-not-found]

engine = Engine(["routes", "--log=root.thres:critical"])
engine.load_platform(sys.argv[1])
hosts = engine.all_hosts
step = max(1, len(hosts) // 12)
picked = hosts[::step]
found = []
for a in picked:
    for b in picked:
        if a.name != b.name:
            links, latency = a.route_to(b)
            # A limiter is no link of the network; it is left out there, too.
            rates = [link.bandwidth for link in links if "limiter" not in link.name]
            found.append([a.name, b.name, min(rates), latency])
sys.stdout.write(json.dumps(found))
