"""Compiled loops of `saetools.metrics.pooling`.

Each runs on one core without the GIL; arguments are checked by the caller.
"""

import numpy as np

from saetools.compute.kernels.compiled import njit

PROTOTYPE_BLOCK = 256  # prototypes handled together, so that their largest values stay in the first cache


@njit(nogil=True, cache=True)
def mean_of_largest(scores_npk, m, first, last, pooled_nk):
    """pooled_nk[i] = mean over the m largest of scores_npk[i], prototype by prototype, for i = first..last-1.

    The m largest so far are kept in order; a new value sinks through them by m minima and maxima, without a
    branch. NaN in any patch gives NaN, as the mean of a set that cannot be ordered.
    """
    n_patches, n_prototypes = scores_npk.shape[1:]
    largest = np.empty((m, PROTOTYPE_BLOCK), np.float32)
    incoming = np.empty(PROTOTYPE_BLOCK, np.float32)
    spoilt = np.empty(PROTOTYPE_BLOCK, np.float32)
    for i in range(first, last):
        for start in range(0, n_prototypes, PROTOTYPE_BLOCK):
            width = min(PROTOTYPE_BLOCK, n_prototypes - start)
            largest[:] = -np.float32(np.inf)
            spoilt[:] = np.float32(0.0)
            for p in range(n_patches):
                for k in range(width):
                    value = scores_npk[i, p, start + k]
                    incoming[k] = value
                    spoilt[k] = value if value != value else spoilt[k]
                for rank in range(m):
                    for k in range(width):
                        value = incoming[k]
                        kept = largest[rank, k]
                        largest[rank, k] = value if value > kept else kept
                        incoming[k] = kept if value > kept else value
            for k in range(width):
                total = np.float32(0.0)
                for rank in range(m):
                    total += largest[rank, k]
                pooled_nk[i, start + k] = total / np.float32(m) + spoilt[k]
