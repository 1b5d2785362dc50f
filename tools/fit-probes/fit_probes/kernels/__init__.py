"""Compiled loops of the probe solver; `fit_probes.solver` checks their arguments and calls them.

numba's cache does not see that a kernel in another file has changed: after an edit here, delete `__pycache__`.
"""
