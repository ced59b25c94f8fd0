"""Collectives as the programs of executors and simulators: MSCCL, MSCCL++, Chakra."""
