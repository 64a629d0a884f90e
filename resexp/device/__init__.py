"""GPUs and CPUs: which one a run computes on, CUDA graphs, and several runs side by side."""
