"""The probe solver in plain torch, for GPUs: the algorithm of `kernels/` without the histogram start.

Latents of like size are padded to one block of values; their pairs are rows of one Newton iteration, from which
converged pairs drop out. No atomic additions, so that a device gives the same result each time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fit_probes.problem import (
    DECREMENT,
    NO_PROBE,
    REACH,
    SEPARABLE_RIDGE,
    ProbeFit,
    ProbeFlag,
    label_arrays,
)
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents

ARMIJO = 1e-4
TRUST_STEP = 1e-10
MAX_PASSES = 200
EXTRA_PASSES = 40


@dataclass
class Block:
    """m latents, padded to n values. z is centred on its mean over all rows: (value * first - mean) * second."""

    z_mn: Tensor
    mask_mn: Tensor
    row_mn: Tensor
    first_m: Tensor
    mean_m: Tensor
    second_m: Tensor
    zero_z_m: Tensor
    n_zero_m: Tensor
    low_m: Tensor
    high_m: Tensor
    sd_m: Tensor


@dataclass
class LabelSums:
    """What the labels say of each latent and class, before any fit."""

    mass_mc: Tensor
    mass_z_mc: Tensor
    separable_mc: Tensor


def fit_probes_torch(
    latents: Latents, labels: RowLabels, *, ridge: float, standardise: bool, device: str, budget: int = 2**25
) -> ProbeFit:
    """`solver.fit_probes` on a torch device with float64; its arguments are checked there.

    budget: most float64 numbers in one temporary, of which about ten are alive at a time.
    """
    n_latents, n_classes = latents.n_latents, labels.n_classes
    prior_c, logit_c, prior_loss_c = labels.prior()
    weight_kc = np.zeros((n_latents, n_classes))
    bias_kc = np.tile(logit_c, (n_latents, 1))
    loss_kc = np.tile(prior_loss_c, (n_latents, 1))
    decrement_kc = np.zeros((n_latents, n_classes))
    passes_kc = np.zeros((n_latents, n_classes), np.int32)
    flags_kc = np.zeros((n_latents, n_classes), np.uint8)
    flags_kc[:, labels.some_positive == 0] = ProbeFlag.NO_POSITIVES
    flags_kc[:, labels.some_negative == 0] = ProbeFlag.ALL_POSITIVES
    column, table = label_arrays(labels)
    column_n = torch.from_numpy(column).to(device)
    table_nc = None if table is None else torch.from_numpy(table).to(device)
    known = {
        "mass": torch.from_numpy(labels.mass).to(device),
        "positive": torch.from_numpy(labels.some_positive).to(device),
        "negative": torch.from_numpy(labels.some_negative).to(device),
        "logit": torch.from_numpy(logit_c).to(device),
    }
    for picked in blocks_of_like_size(np.diff(latents.indptr), budget):
        block = load_block(latents, picked, column_n, labels.n_kept, device)
        blank_m = torch.where(block.mask_mn.any(1), int(ProbeFlag.CONSTANT), int(ProbeFlag.NEVER_FIRES))
        blank_m = torch.where((block.high_m > block.low_m) & (block.sd_m > 0), 0, blank_m)
        flags_mc = torch.from_numpy(flags_kc[picked]).to(device).long() | blank_m[:, None]
        sums = sum_labels(block, column_n, table_nc, known)
        fitted_mc = (flags_mc & NO_PROBE) == 0
        flags_mc |= torch.where(sums.separable_mc & fitted_mc, int(ProbeFlag.SEPARABLE), 0)
        flags_kc[picked] = flags_mc.cpu().numpy()
        at_m, at_c = torch.nonzero(fitted_mc, as_tuple=True)
        ridge_p = torch.full(at_m.shape, ridge, dtype=torch.float64, device=device)
        ridge_p = torch.where(sums.separable_mc[at_m, at_c], ridge_p.clamp(min=SEPARABLE_RIDGE), ridge_p)
        unit_m = block.sd_m if standardise else block.first_m * block.second_m
        ridge_p = (ridge_p * unit_m[at_m] ** 2).clamp(max=1e290)
        w_p, b_p, ce_p, decrement_p, passes_p = minimise(
            block, sums, known, at_m, at_c, ridge_p, labels.n_kept, budget
        )
        scale_m = block.second_m * block.first_m
        where = picked[at_m.cpu().numpy()], at_c.cpu().numpy()
        weight_kc[where] = (w_p * scale_m[at_m]).cpu().numpy()
        bias_kc[where] = (b_p - w_p * (block.second_m * block.mean_m)[at_m]).cpu().numpy()
        loss_kc[where] = ce_p.cpu().numpy()
        decrement_kc[where] = decrement_p.cpu().numpy()
        passes_kc[where] = passes_p.cpu().numpy()
    return ProbeFit(
        weight_kc,
        bias_kc,
        loss_kc,
        decrement_kc <= DECREMENT,
        flags_kc,
        decrement_kc,
        passes_kc,
        prior_c,
        prior_loss_c,
    )


def blocks_of_like_size(size_k: npt.NDArray[np.integer], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Latents by falling size, as many at a time as fit the budget when padded to the first one's size."""
    order = np.argsort(-size_k, kind="stable")
    start = 0
    while start < order.size:
        stop = start + max(1, budget // (8 * max(int(size_k[order[start]]), 1)))
        # Padding to more than four times a latent's own size costs more than another block.
        near = np.searchsorted(-size_k[order], -(int(size_k[order[start]]) // 4), side="right")
        stop = min(stop, max(int(near), start + 1), start + 4096)
        yield order[start:stop]
        start = stop


def load_block(
    latents: Latents, picked: npt.NDArray[np.int64], column_n: Tensor, n_rows: int, device: str
) -> Block:
    """Pad, drop ignored rows and explicit zeros, centre and scale by powers of two."""
    starts, stops = latents.indptr[picked], latents.indptr[picked + 1]
    n = max(int((stops - starts).max()), 1)
    z_host, row_host = np.zeros((picked.size, n)), np.zeros((picked.size, n), np.int64)
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        z_host[i, : stop - start] = latents.values[start:stop]
        row_host[i, : stop - start] = latents.rows[start:stop]
    z_mn, row_mn = torch.from_numpy(z_host).to(device), torch.from_numpy(row_host).to(device)
    mask_mn = (z_mn != 0) & (column_n[row_mn] >= 0)
    z_mn = torch.where(mask_mn, z_mn, 0.0)
    n_zero_m = (n_rows - mask_mn.sum(1)).double()
    first_m = power_of_two(z_mn.abs().amax(1))
    z_mn = z_mn * first_m[:, None]
    mean_m = z_mn.sum(1) / n_rows
    z_mn = torch.where(mask_mn, z_mn - mean_m[:, None], 0.0)
    zero_m = torch.where(n_zero_m > 0, -mean_m, torch.inf)
    low_m = torch.minimum(torch.where(mask_mn, z_mn, torch.inf).amin(1), zero_m)
    zero_m = torch.where(n_zero_m > 0, -mean_m, -torch.inf)
    high_m = torch.maximum(torch.where(mask_mn, z_mn, -torch.inf).amax(1), zero_m)
    second_m = torch.where(high_m > low_m, power_of_two(torch.maximum(low_m.abs(), high_m.abs())), 1.0)
    z_mn = z_mn * second_m[:, None]
    zero_z_m = -mean_m * second_m
    sd_m = (((z_mn**2).sum(1) + n_zero_m * zero_z_m**2) / n_rows).sqrt()
    low_m, high_m = low_m * second_m, high_m * second_m
    return Block(z_mn, mask_mn, row_mn, first_m, mean_m, second_m, zero_z_m, n_zero_m, low_m, high_m, sd_m)


def power_of_two(x: Tensor) -> Tensor:
    """2^-e for x = m 2^e with m in [0.5, 1): multiplying by it rounds nothing."""
    exponent = torch.frexp(x).exponent.clamp(-1000, 1000)
    return torch.ldexp(torch.ones_like(x), -exponent)


def sum_labels(
    block: Block, column_n: Tensor, table_nc: Tensor | None, known: dict[str, Tensor]
) -> LabelSums:
    """Mass of positives, their values, and whether a threshold separates, for each latent and class."""
    mass, mass_z, separable = [], [], []
    zero_z_m = block.zero_z_m
    for c in range(known["mass"].numel()):
        y_mn = column_n[block.row_mn] == c if table_nc is None else table_nc[:, c][block.row_mn]
        y_mn = torch.where(block.mask_mn, y_mn.double(), 0.0)
        mass.append(y_mn.sum(1))
        mass_z.append((y_mn * block.z_mn).sum(1))
        ends = {}
        for name, in_mn in (("positive", y_mn > 0), ("negative", (y_mn < 1) & block.mask_mn)):
            among_zeros_m = known[name][c] > in_mn.sum(1)
            low_m = torch.where(in_mn, block.z_mn, torch.inf).amin(1)
            high_m = torch.where(in_mn, block.z_mn, -torch.inf).amax(1)
            ends[name] = (
                torch.where(among_zeros_m, torch.minimum(low_m, zero_z_m), low_m),
                torch.where(among_zeros_m, torch.maximum(high_m, zero_z_m), high_m),
            )
        (pos_low, pos_high), (neg_low, neg_high) = ends["positive"], ends["negative"]
        separable.append((neg_high <= pos_low) | (pos_high <= neg_low))
    return LabelSums(torch.stack(mass, 1), torch.stack(mass_z, 1), torch.stack(separable, 1))


def nonzero_sums(block: Block, at_m: Tensor, w_p: Tensor, b_p: Tensor, budget: int) -> Tensor:
    """{p, 6}: sums over the latent's nonzero values of ln(1 + e^t), s, s z, v, v z, v z^2, with t = w z + b."""
    n = block.z_mn.shape[1]
    out_p6 = torch.empty((at_m.numel(), 6), dtype=torch.float64, device=w_p.device)
    step = max(1, budget // n)
    for start in range(0, at_m.numel(), step):
        part = slice(start, start + step)
        z_pn, mask_pn = block.z_mn[at_m[part]], block.mask_mn[at_m[part]]
        t_pn = torch.addcmul(b_p[part, None], w_p[part, None], z_pn)
        e_pn = torch.exp(-t_pn.abs())
        larger_pn = torch.where(mask_pn, 1.0 / (1.0 + e_pn), 0.0)
        smaller_pn = e_pn * larger_pn
        loss_pn = torch.where(mask_pn, t_pn.clamp(min=0.0) + torch.log1p(e_pn), 0.0)
        s_pn = torch.where(t_pn >= 0, larger_pn, smaller_pn)
        v_pn = smaller_pn * torch.where(mask_pn, 1.0 / (1.0 + e_pn), 0.0)
        for i, x_pn in enumerate((loss_pn, s_pn, s_pn * z_pn, v_pn, v_pn * z_pn, v_pn * z_pn * z_pn)):
            out_p6[part, i] = x_pn.sum(1)
    return out_p6


def minimise(
    block: Block,
    sums: LabelSums,
    known: dict[str, Tensor],
    at_m: Tensor,
    at_c: Tensor,
    ridge_p: Tensor,
    n_rows: int,
    budget: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Newton for the pairs (at_m, at_c), as in `kernels.newton.next_point`: weight, bias, loss, decrement, passes."""
    mass_p, mass_z_p = sums.mass_mc[at_m, at_c], sums.mass_z_mc[at_m, at_c]
    zero_z_p, n_zero_p = block.zero_z_m[at_m], block.n_zero_m[at_m]
    low_p, high_p = block.low_m[at_m], block.high_m[at_m]
    zero_mass_p = (known["mass"][at_c] - mass_p).clamp(min=0.0)
    # Labels are swapped where positives are more common where the latent is active, so that their sums do not cancel.
    n_nonzero_p = n_rows - n_zero_p
    swap_p = mass_p > 0.5 * n_nonzero_p
    mass_p = torch.where(swap_p, n_nonzero_p - mass_p, mass_p)
    mass_z_p = torch.where(swap_p, block.z_mn.sum(1)[at_m] - mass_z_p, mass_z_p)
    zero_mass_p = torch.where(swap_p, (n_zero_p - zero_mass_p).clamp(min=0.0), zero_mass_p)
    sign_p = torch.where(swap_p, -1.0, 1.0).double()

    w_p, b_p = torch.zeros_like(ridge_p), sign_p * known["logit"][at_c]
    ce_p, decrement_p, passes_p = torch.zeros_like(w_p), torch.zeros_like(w_p), torch.zeros_like(at_m)
    since_p, checked_p = torch.zeros_like(at_m), torch.zeros_like(at_m, dtype=torch.bool)
    objective_p, slope_p, length_p, reach_p, step_w_p, step_b_p = (torch.zeros_like(w_p) for _ in range(6))
    live = torch.arange(at_m.numel(), device=w_p.device)
    while live.numel():
        w, b, ridge, zero_z, n_zero = w_p[live], b_p[live], ridge_p[live], zero_z_p[live], n_zero_p[live]
        mass, mass_z, zero_mass = mass_p[live], mass_z_p[live], zero_mass_p[live]
        sums_p6 = nonzero_sums(block, at_m[live], w, b, budget)
        passes_p[live] += 1

        t = w * zero_z + b
        e = torch.exp(-t.abs())
        larger, smaller = 1.0 / (1.0 + e), e / (1.0 + e)
        zero_g = torch.where(t >= 0, n_zero - zero_mass - n_zero * smaller, n_zero * smaller - zero_mass)
        zero_loss = n_zero * torch.log1p(e) + torch.where(t >= 0, t * (n_zero - zero_mass), -t * zero_mass)
        zero_v = n_zero * larger * smaller
        ce = (sums_p6[:, 0] - w * mass_z - b * mass + zero_loss) / n_rows
        ce_gb = (sums_p6[:, 1] - mass + zero_g) / n_rows
        ce_gw = (sums_p6[:, 2] - mass_z + zero_g * zero_z) / n_rows
        hbb = (sums_p6[:, 3] + zero_v) / n_rows
        hbw = (sums_p6[:, 4] + zero_v * zero_z) / n_rows
        hww = (sums_p6[:, 5] + zero_v * zero_z**2) / n_rows
        objective = ce + 0.5 * ridge * w * w

        bound = (
            objective_p[live]
            - ARMIJO * length_p[live] * slope_p[live]
            + 1e-15 * (1.0 + objective_p[live].abs())
        )
        back = (
            checked_p[live] & ~(objective <= bound) & (length_p[live] > 1e-12) & (passes_p[live] < MAX_PASSES)
        )
        safe = torch.log1p(reach_p[live]) / reach_p[live].clamp(min=1e-300)
        shorter = torch.minimum(0.5 * length_p[live], (length_p[live] * safe).sqrt())

        steep, ratio = hbb.clamp(min=1e-290), hbw / hbb.clamp(min=1e-290)
        full_hww = hww + ridge
        schur = torch.maximum(full_hww - ratio * hbw, 1e-15 * full_hww).clamp(min=1e-290)
        gw = ce_gw + ridge * w
        dw = -(gw - ratio * ce_gb) / schur
        db = -ce_gb / steep - ratio * dw
        squared = (-(ce_gb * db + gw * dw)).clamp(min=0.0)
        moved = torch.maximum((db + dw * low_p[live]).abs(), (db + dw * high_p[live]).abs())
        logits = torch.maximum((w * low_p[live] + b).abs(), (w * high_p[live] + b).abs())
        near = squared <= DECREMENT
        since_p[live] += (near & ~back).long()
        settled = near & ((moved <= REACH) | (since_p[live] > EXTRA_PASSES))
        done = ~back & (settled | (passes_p[live] >= MAX_PASSES))
        final = done & settled & (moved <= REACH)

        length = ((4.0 * logits).clamp(min=16.0) / moved.clamp(min=1e-300)).clamp(max=1.0)
        trusted = squared <= TRUST_STEP
        damped = torch.where(moved > 0.5, torch.log1p(moved) / moved.clamp(min=1e-300), 1.0)
        length = torch.where(trusted, damped, length)
        factor = torch.where(final, 1.0, torch.where(done, 0.0, length))
        w_p[live] = torch.where(back, w + (shorter - length_p[live]) * step_w_p[live], w + factor * dw)
        b_p[live] = torch.where(back, b + (shorter - length_p[live]) * step_b_p[live], b + factor * db)
        change = ce_gb * db + ce_gw * dw + 0.5 * (hbb * db * db + 2.0 * hbw * db * dw + hww * dw * dw)
        ce_p[live] = torch.where(back, ce_p[live], ce + torch.where(final, change, 0.0))
        for kept_p, new in (
            (decrement_p, squared),
            (objective_p, objective),
            (slope_p, squared),
            (reach_p, moved),
            (step_w_p, dw),
            (step_b_p, db),
        ):
            kept_p[live] = torch.where(back, kept_p[live], new)
        length_p[live] = torch.where(back, shorter, length)
        checked_p[live] = torch.where(back, checked_p[live], ~trusted)
        live = live[~done]
    return sign_p * w_p, sign_p * b_p, ce_p, decrement_p, passes_p
