"""The training step on a CPU: the formulas of `train_sae.steps` by compiled kernels; equals `TorchStep` to rounding.

`CpuStep` chooses between two ways: on lists of active latents (`selection`, `prescreen`, `sparse`), or on all values
of f (`dense`). Everything here is about speed; what a step computes is told in `train_sae.steps`.
"""
