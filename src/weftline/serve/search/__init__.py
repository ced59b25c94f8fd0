"""The cheapest fleet that meets its targets: screened in closed form, confirmed by simulation."""
