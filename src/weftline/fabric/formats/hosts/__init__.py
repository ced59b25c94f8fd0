"""One host as its own tools see it: NCCL's topology and graph, nvidia-smi, rocm-smi."""
