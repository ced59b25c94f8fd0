"""``weftline simulate``: collectives and serving on a network or machine that is not here."""

from __future__ import annotations

from cyclopts import App

from weftline.cli.simulate_collective import collective, synthesize
from weftline.cli.simulate_placement import placement
from weftline.cli.simulate_serving import serving
from weftline.cli.simulate_spot import spot

app = App(
    name="simulate",
    help="Simulate a collective or a serving system without the hardware.",
    help_format="plaintext",
)
app.command(collective)
app.command(synthesize)
app.command(placement)
app.command(serving)
app.command(spot)
