"""Gradients of a latent's two rows, and Adam on them, in one pass over the parameters."""

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST
from saetools.compute.kernels.intrinsics import prefetch

# Moments of latents that stay off decay geometrically; below this they are set to zero, long before
# subnormal numbers slow every step. Their update would be below the rounding of the weights.
TINY = np.float32(1e-36)


@njit(**FAST)
def _add_active(start, stop, n_tokens, row_a, f_a, dz_a, x_bd, G_rd, g_enc, g_dec):
    """g_enc += sum dz x_b, g_dec += sum f G_row over the active tokens [start, stop) of a latent; returns sum dz."""
    d = len(g_enc)
    sum_dz = np.float32(0)
    a = start
    while a + 4 <= stop:
        r0, r1 = np.uint64(row_a[a]), np.uint64(row_a[a + 1])
        r2, r3 = np.uint64(row_a[a + 2]), np.uint64(row_a[a + 3])
        b0, b1 = r0 % np.uint64(n_tokens), r1 % np.uint64(n_tokens)
        b2, b3 = r2 % np.uint64(n_tokens), r3 % np.uint64(n_tokens)
        f0, f1, f2, f3 = f_a[a], f_a[a + 1], f_a[a + 2], f_a[a + 3]
        z0, z1, z2, z3 = dz_a[a], dz_a[a + 1], dz_a[a + 2], dz_a[a + 3]
        for ahead in range(a + 4, min(a + 8, stop)):
            prefetch(x_bd, np.uint64(row_a[ahead]) % np.uint64(n_tokens))
            prefetch(G_rd, np.uint64(row_a[ahead]))
        for i in range(d):
            g_enc[i] += (z0 * x_bd[b0, i] + z1 * x_bd[b1, i]) + (z2 * x_bd[b2, i] + z3 * x_bd[b3, i])
            g_dec[i] += (f0 * G_rd[r0, i] + f1 * G_rd[r1, i]) + (f2 * G_rd[r2, i] + f3 * G_rd[r3, i])
        sum_dz += (z0 + z1) + (z2 + z3)
        a += 4
    while a < stop:
        r0 = np.uint64(row_a[a])
        b0 = r0 % np.uint64(n_tokens)
        f0, z0 = f_a[a], dz_a[a]
        for i in range(d):
            g_enc[i] += z0 * x_bd[b0, i]
            g_dec[i] += f0 * G_rd[r0, i]
        sum_dz += z0
        a += 1
    return sum_dz


@njit(**FAST)
def _remove_parallel(g, w_sd, s):
    """g -= <g, w> w for the unit row w."""
    dot = np.float32(0)
    for i in range(len(g)):
        dot += g[i] * w_sd[s, i]
    for i in range(len(g)):
        g[i] -= dot * w_sd[s, i]


@njit(**FAST)
def _adam_row(s, g, w_sd, m_sd, v_sd, beta1, beta2, rate, root, eps):
    """One Adam step on row s: m, v decay and take in g; w -= rate m / (root sqrt(v) + eps). Returns |w|^2.

    rate = lr / (1 - beta1^t), root = 1 / sqrt(1 - beta2^t), as in torch.optim.Adam.
    """
    one = np.float32(1)
    square = np.float32(0)
    for i in range(len(g)):
        m = beta1 * m_sd[s, i] + (one - beta1) * g[i]
        v = beta2 * v_sd[s, i] + (one - beta2) * (g[i] * g[i])
        m = m if abs(m) > TINY else np.float32(0)
        v = v if v > TINY else np.float32(0)
        m_sd[s, i] = m
        v_sd[s, i] = v
        w = w_sd[s, i] - rate * m / (np.sqrt(v) * root + eps)
        w_sd[s, i] = w
        square += w * w
    return square


@njit(**FAST)
def _normalise_row(s, w_sd, square):
    if square > np.float32(0):
        factor = np.float32(1) / np.sqrt(square)
        for i in range(w_sd.shape[1]):
            w_sd[s, i] *= factor


@njit(**FAST)
def update_from_active(
    piece, lo, hi, ptr_s, row_a, f_a, dz_a, x_bd, G_rd, clip, adam,
    enc_sd, enc_m, enc_v, dec_sd, dec_m, dec_v, g_b_enc, g_b_dec_pd,
):  # fmt: skip
    """Gradients of latents [lo, hi) from their active tokens, then Adam; decoder rows end at unit norm.

        g_enc[s] = sum over a of dz_a x_b(a),   g_b_enc[s] = sum of dz_a
        g_dec[s] = sum over a of f_a G_row(a),  less its part parallel to dec[s]

    over the entries a in [ptr_s[s], ptr_s[s + 1]) of row_a, f_a and dz_a {A} (see `sparse.group_by_latent`); the
    token of an entry is b(a) = row_a mod B. All gradients are multiplied by `clip`.

    x_bd {B, D}: centred inputs; G_rd {R, D}: gradients with respect to x_hat, as in `sparse.decode_rows`
    adam: (beta1, beta2, rate, root, eps), see `_adam_row`
    enc_sd, enc_m, enc_v, dec_sd, dec_m, dec_v {S, D}: parameters and Adam's moments, changed in place
    g_b_enc {S}: the encoder bias' gradient, written; g_b_dec_pd[piece] {D}: less the sum over s of g_b_enc[s] enc[s],
    which is b_dec's gradient through the encoder
    """
    n_tokens, d = x_bd.shape
    beta1, beta2, rate, root, eps = adam[0], adam[1], adam[2], adam[3], adam[4]
    g_enc = np.empty(d, np.float32)
    g_dec = np.empty(d, np.float32)
    for s in range(lo, hi):
        for i in range(d):
            g_enc[i] = np.float32(0)
            g_dec[i] = np.float32(0)
        sum_dz = np.float32(0)
        if ptr_s[s] < ptr_s[s + 1]:
            sum_dz = clip * _add_active(
                ptr_s[s], ptr_s[s + 1], n_tokens, row_a, f_a, dz_a, x_bd, G_rd, g_enc, g_dec
            )
            _remove_parallel(g_dec, dec_sd, s)
            for i in range(d):
                g_b_dec_pd[piece, i] -= sum_dz * enc_sd[s, i]
                g_enc[i] *= clip
                g_dec[i] *= clip
        g_b_enc[s] = sum_dz
        _adam_row(s, g_enc, enc_sd, enc_m, enc_v, beta1, beta2, rate, root, eps)
        _normalise_row(s, dec_sd, _adam_row(s, g_dec, dec_sd, dec_m, dec_v, beta1, beta2, rate, root, eps))


@njit(**FAST)
def square_norms(
    piece, lo, hi, ptr_s, row_a, f_a, dz_a, x_bd, G_rd, enc_sd, dec_sd, square_s, g_b_enc, g_b_dec_pd
):  # fmt: skip
    """What `update_from_active` needs for clipping: square_s {S} = |g_enc|^2 + |g_dec|^2 + g_b_enc^2 of each latent.

    Arguments as there; g_b_enc and g_b_dec_pd[piece] are written too, without `clip`.
    """
    n_tokens, d = x_bd.shape
    g_enc = np.empty(d, np.float32)
    g_dec = np.empty(d, np.float32)
    for s in range(lo, hi):
        for i in range(d):
            g_enc[i] = np.float32(0)
            g_dec[i] = np.float32(0)
        sum_dz = np.float32(0)
        square = np.float32(0)
        if ptr_s[s] < ptr_s[s + 1]:
            sum_dz = _add_active(ptr_s[s], ptr_s[s + 1], n_tokens, row_a, f_a, dz_a, x_bd, G_rd, g_enc, g_dec)
            _remove_parallel(g_dec, dec_sd, s)
            for i in range(d):
                g_b_dec_pd[piece, i] -= sum_dz * enc_sd[s, i]
                square += g_enc[i] * g_enc[i] + g_dec[i] * g_dec[i]
        g_b_enc[s] = sum_dz
        square_s[s] = square + sum_dz * sum_dz


@njit(**FAST)
def add_active_gradients(
    _piece, lo, hi, row0, ptr_s, row_a, f_a, dz_a, x_bd, G_rd, g_enc_sd, g_dec_sd, g_b_enc
):  # fmt: skip
    """Adds the gradients of listed active latents to dense ones; row r of g_enc_sd and g_dec_sd is latent row0 + r.

    The other arguments as in `update_from_active`.
    """
    n_tokens = x_bd.shape[0]
    for row in range(lo, hi):
        start, stop = ptr_s[row0 + row], ptr_s[row0 + row + 1]
        if start < stop:
            g_b_enc[row0 + row] += _add_active(
                start, stop, n_tokens, row_a, f_a, dz_a, x_bd, G_rd, g_enc_sd[row], g_dec_sd[row]
            )


@njit(**FAST)
def finish_gradients(piece, lo, hi, row0, g_enc_sd, g_dec_sd, g_b_enc, enc_sd, dec_sd, square_s, g_b_dec_pd):
    """Removes the part of the decoder's gradient that is parallel to its rows; row r of g_enc_sd and g_dec_sd is latent
    row0 + r. `square_s` and `g_b_dec_pd` as in `square_norms`."""
    for row in range(lo, hi):
        s = row0 + row
        g_enc = g_enc_sd[row]
        g_dec = g_dec_sd[row]
        _remove_parallel(g_dec, dec_sd, s)
        square = g_b_enc[s] * g_b_enc[s]
        for i in range(len(g_enc)):
            g_b_dec_pd[piece, i] -= g_b_enc[s] * enc_sd[s, i]
            square += g_enc[i] * g_enc[i] + g_dec[i] * g_dec[i]
        square_s[s] = square


@njit(**FAST)
def update_from_gradients(
    _piece, lo, hi, row0, g_enc_sd, g_dec_sd, clip, adam, enc_sd, enc_m, enc_v, dec_sd, dec_m, dec_v
):  # fmt: skip
    """Adam on latents row0 + [lo, hi) from the gradients of `finish_gradients`, which it multiplies by `clip`.

    adam, moments: as in `update_from_active`.
    """
    beta1, beta2, rate, root, eps = adam[0], adam[1], adam[2], adam[3], adam[4]
    for row in range(lo, hi):
        s = row0 + row
        g_enc = g_enc_sd[row]
        g_dec = g_dec_sd[row]
        for i in range(len(g_enc)):
            g_enc[i] *= clip
            g_dec[i] *= clip
        _adam_row(s, g_enc, enc_sd, enc_m, enc_v, beta1, beta2, rate, root, eps)
        _normalise_row(s, dec_sd, _adam_row(s, g_dec, dec_sd, dec_m, dec_v, beta1, beta2, rate, root, eps))
