"""Launchers that start processes on hosts that are there: torchrun, Slurm, Open MPI, Ray."""
