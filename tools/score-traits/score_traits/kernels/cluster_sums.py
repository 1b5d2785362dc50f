"""Compiled loop of `score_traits.kmeans`. It runs on one core; arguments are checked by the caller."""

from saetools.compute.kernels.compiled import njit


@njit(nogil=True, cache=True)
def add_to_clusters(x_bd, cluster_b, sum_kd, count_k):
    """sum_kd[cluster_b[i]] += x_bd[i] and count_k[cluster_b[i]] += 1 for all i, in float64, in order."""
    for i in range(x_bd.shape[0]):
        k = cluster_b[i]
        count_k[k] += 1
        for d in range(x_bd.shape[1]):
            sum_kd[k, d] += x_bd[i, d]
