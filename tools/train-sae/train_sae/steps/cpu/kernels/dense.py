"""The elementwise parts of the step whose codes are dense; a row is a latent, a column a token."""

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST


@njit(**FAST)
def activate_rows(_piece, lo, hi, row0, f_sb, bias_s, theta_s, n_s, sum_s):
    """f <- f + bias where that exceeds theta, else 0; row r of f is latent row0 + r.

    n, sum: the number of active values of a latent, and their sum.
    """
    for row in range(lo, hi):
        s = row0 + row
        bias, theta = bias_s[s], theta_s[s]
        n = np.int32(0)
        total = np.float32(0)
        for b in range(f_sb.shape[1]):
            value = f_sb[row, b] + bias
            on = value > theta
            value = value if on else np.float32(0)
            f_sb[row, b] = value
            total += value
            n += np.int32(on)
        n_s[s] = n
        sum_s[s] = total


@njit(**FAST)
def mark_window_rows(_piece, lo, hi, row0, z_sb, bias_s, theta_s, half, window_sw):
    """Bit b % 64 of word b // 64 of a latent's row: whether |z + bias - theta| < half at token b."""
    n_tokens = z_sb.shape[1]
    for row in range(lo, hi):
        s = row0 + row
        shift = bias_s[s] - theta_s[s]
        for word in range(window_sw.shape[1]):
            start = 64 * word
            stop = min(start + 64, n_tokens)
            n = np.int32(0)
            for b in range(start, stop):
                n += np.int32(abs(z_sb[row, b] + shift) < half)
            bits = np.uint64(0)
            if n > 0:
                for b in range(start, stop):
                    if abs(z_sb[row, b] + shift) < half:
                        bits |= np.uint64(1) << np.uint64(b - start)
            window_sw[s, word] = bits


@njit(**FAST)
def threshold_gradient_rows(_piece, lo, hi, row0, df_sb, theta_s, half, l1, l0, window_sw, g_s):
    """g = dL/dlog(theta) of each latent, as `threshold.threshold_gradient`."""
    for row in range(lo, hi):
        s = row0 + row
        n = 0
        df = np.float32(0)
        for word in range(window_sw.shape[1]):
            bits = window_sw[s, word]
            b = 64 * word
            while bits != np.uint64(0):
                if bits & np.uint64(1):
                    df += df_sb[row, b] + l1
                    n += 1
                bits >>= np.uint64(1)
                b += 1
        g_s[s] = -theta_s[s] * (theta_s[s] * df + l0 * np.float32(n)) / (np.float32(2) * half)


@njit(**FAST)
def backward_rows(_piece, lo, hi, row0, df_sb, f_sb, l1, g_b_enc):
    """df <- df + l1 where f > 0, else 0; g_b_enc: its sum over the tokens of each latent."""
    for row in range(lo, hi):
        total = np.float32(0)
        for b in range(df_sb.shape[1]):
            value = df_sb[row, b] + l1 if f_sb[row, b] > np.float32(0) else np.float32(0)
            df_sb[row, b] = value
            total += value
        g_b_enc[row0 + row] = total


@njit(**FAST)
def residual_rows(_piece, lo, hi, x_hat_bd, x_bd, scale, G_bd, sse_b):
    """G = scale (x_hat - x), sse = |x_hat - x|^2 of each token."""
    for b in range(lo, hi):
        sse = np.float32(0)
        for i in range(x_bd.shape[1]):
            residual = x_hat_bd[b, i] - x_bd[b, i]
            sse += residual * residual
            G_bd[b, i] = scale * residual
        sse_b[b] = sse
