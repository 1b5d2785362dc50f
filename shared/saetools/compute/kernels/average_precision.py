"""Compiled loops of `saetools.metrics.average_precision` and its resampled kin: one sort, three ways to sum over it.

Every loop runs on one core without the GIL; the callers share columns out among threads. That leaves numba's
own thread pool unused, and with it its traps (forked children, two callers at once). All of them stay in this
module because numba's cache sees no edits in another file. Arguments are checked by the callers.

For one column of scores, with the distinct scores s_1 > ... > s_G as thresholds, d_g positives at s_g,
c_g = d_1 + ... + d_g positives and n_g images at s_g or above, P = c_G:

    AP = 1/P sum_g d_g c_g / n_g

The lowest group needs no sorting, as c_G = P and n_G = N: where 95% of the scores are zero, 5% are sorted.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import CACHED, PLAIN_KERNELS

LABEL_BITS = 32  # traits in one word of label bits, which the CPU handles together
RESAMPLES = 256  # resamples handled together
_ROWS, _COLUMNS = 64, 64  # scores that are transposed at a time: 16 KiB, in the first cache
_DIGIT = 2047
_IMAGE = 0xFFFFFFFF


def _add_run_plain(words_n, order_m, weight_m, first, last, count_l, sum_l):
    """For j in first..last-1 and every bit l of words_n[order_m[j]] that is set:
    count_l[l] += 1, then sum_l[l] += count_l[l] * weight_m[j].
    """
    for j in range(first, last):
        word = words_n[order_m[j]]
        for bit in range(LABEL_BITS):
            if (word >> np.uint32(bit)) & np.uint32(1):
                count_l[bit] += 1.0
                sum_l[bit] += count_l[bit] * weight_m[j]


def _add_run_llvm(typingctx, words_n, order_m, weight_m, first, last, count_l, sum_l):  # noqa: ARG001
    """`_add_run_plain` in LLVM's language (see intrinsics.py), because the plain loop takes twice the time: its counts
    and sums return to memory at every step, and here they stay in registers, with the bits as masks.
    """
    from llvmlite import ir

    signature = types.void(words_n, order_m, weight_m, first, last, count_l, sum_l)

    def generate(context, builder, signature, args):
        def data(position):
            return context.make_array(signature.args[position])(context, builder, args[position]).data

        words, order, weight = data(0), data(1), data(2)
        first, last = args[3], args[4]
        int32, int64 = ir.IntType(32), ir.IntType(64)
        vector = ir.VectorType(ir.DoubleType(), LABEL_BITS)
        mask_type = ir.VectorType(ir.IntType(1), LABEL_BITS)
        count_at = builder.bitcast(data(5), vector.as_pointer())
        sum_at = builder.bitcast(data(6), vector.as_pointer())
        count_before = builder.load(count_at, align=8)
        sum_before = builder.load(sum_at, align=8)

        entry = builder.block
        loop = builder.append_basic_block("run")
        done = builder.append_basic_block("run.done")
        builder.cbranch(builder.icmp_signed("<", first, last), loop, done)

        builder.position_at_end(loop)
        j = builder.phi(int64)
        count = builder.phi(vector)
        total = builder.phi(vector)
        image = builder.zext(builder.load(builder.gep(order, [j])), int64)
        mask = builder.bitcast(builder.load(builder.gep(words, [image])), mask_type)
        undefined = ir.Constant(vector, ir.Undefined)
        lane_0 = builder.insert_element(
            undefined, builder.load(builder.gep(weight, [j])), ir.Constant(int32, 0)
        )
        all_lanes = ir.Constant(ir.VectorType(int32, LABEL_BITS), [0] * LABEL_BITS)
        weights = builder.shuffle_vector(lane_0, undefined, all_lanes)
        ones = ir.Constant(vector, [1.0] * LABEL_BITS)
        new_count = builder.select(mask, builder.fadd(count, ones), count)
        term = builder.fmul(new_count, weights, flags=("contract",))
        new_total = builder.select(mask, builder.fadd(term, total, flags=("contract",)), total)
        next_j = builder.add(j, ir.Constant(int64, 1))
        for phi, start, after in (
            (j, first, next_j),
            (count, count_before, new_count),
            (total, sum_before, new_total),
        ):
            phi.add_incoming(start, entry)
            phi.add_incoming(after, loop)
        builder.cbranch(builder.icmp_signed("<", next_j, last), loop, done)

        builder.position_at_end(done)
        final_count, final_total = builder.phi(vector), builder.phi(vector)
        for phi, before, after in (
            (final_count, count_before, new_count),
            (final_total, sum_before, new_total),
        ):
            phi.add_incoming(before, entry)
            phi.add_incoming(after, loop)
        builder.store(final_count, count_at, align=8)
        builder.store(final_total, sum_at, align=8)
        return context.get_dummy_value()

    return signature, generate


_add_run: Any = (
    njit(nogil=True, fastmath={"contract"})(_add_run_plain) if PLAIN_KERNELS else intrinsic(_add_run_llvm)
)


@njit(nogil=True, cache=CACHED)
def _descending_keys(bits_nk, first, width, keys_kn):
    """Bits of float32 scores -> uint32 keys that ascend where the scores descend, columns first..first+width-1.

    -0.0 gets the key of 0.0. Returns the position, row by row, of a score that is not finite, or -1.
    """
    n, n_prototypes = bits_nk.shape
    tile = np.empty(
        (_ROWS, _COLUMNS), np.uint32
    )  # transposed from here, as the rows of the matrix lie far apart
    for start in range(0, n, _ROWS):
        height = min(_ROWS, n - start)
        bad = np.uint32(0)
        for i in range(height):
            for j in range(width):
                bits = bits_nk[start + i, first + j]
                bits = np.uint32(0) if bits == np.uint32(0x80000000) else bits
                bad |= np.uint32(bits & np.uint32(0x7F800000) == np.uint32(0x7F800000))
                tile[i, j] = bits if bits >= np.uint32(0x80000000) else bits ^ np.uint32(0x7FFFFFFF)
        if bad:
            for i in range(start, start + height):
                for j in range(first, first + width):
                    if bits_nk[i, j] & np.uint32(0x7F800000) == np.uint32(0x7F800000):
                        return i * n_prototypes + j
        for j in range(width):
            for i in range(height):
                keys_kn[j, start + i] = tile[i, j]
    return -1


@njit(nogil=True, cache=CACHED)
def _descending_order(keys_n, packed_n, spare_n, digits_3, order_n, group_end_n, tie_start_n):
    """Sort the images above the lowest score: order_n[:m] are they, the highest score first.

    group_end_n[j] is one past the last place whose score equals that of place j. tie_start_n lists the first
    places of groups of several images, the last group first. Returns m and how many such groups there are.
    LSD radix sort, 11 bits a pass, of (key, image) packed into one int64; a pass in which all share the digit
    is left out.
    """
    lowest = np.int64(keys_n[0])
    for i in range(keys_n.size):
        lowest = max(lowest, np.int64(keys_n[i]))
    m = 0
    for i in range(keys_n.size):
        key = np.int64(keys_n[i])
        packed_n[m] = (key << 32) | i
        m += key != lowest

    digits_3[:] = 0
    for j in range(m):
        packed = packed_n[j]
        digits_3[0, (packed >> 32) & _DIGIT] += np.uint32(1)
        digits_3[1, (packed >> 43) & _DIGIT] += np.uint32(1)
        digits_3[2, (packed >> 54) & (_DIGIT >> 1)] += np.uint32(1)
    source, target = packed_n, spare_n
    for turn in range(3):
        places = digits_3[turn]
        shift = 32 + 11 * turn
        digit_mask = _DIGIT >> 1 if turn == 2 else _DIGIT
        if m == 0 or places[(source[0] >> shift) & digit_mask] == m:
            continue
        place = np.uint32(0)
        for digit in range(digit_mask + 1):
            size = places[digit]
            places[digit] = place
            place += size
        for j in range(m):
            packed = source[j]
            digit = (packed >> shift) & digit_mask
            place = places[digit]
            target[place] = packed
            places[digit] = place + np.uint32(1)
        source, target = target, source

    n_ties = 0
    end = m
    for j in range(m - 1, -1, -1):
        order_n[j] = source[j] & _IMAGE
        group_end_n[j] = end
        if j == 0 or source[j] >> 32 != source[j - 1] >> 32:
            if end > j + 1:
                tie_start_n[n_ties] = j
                n_ties += 1
            end = j
    return m, n_ties


@njit(nogil=True, cache=CACHED)
def _sort_scratch(n):
    """Arrays for _descending_keys and _descending_order, reused for all columns of a call."""
    return (
        np.empty((_COLUMNS, n), np.uint32),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty((3, _DIGIT + 1), np.uint32),
        np.empty(n, np.uint32),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
    )


@njit(nogil=True, cache=CACHED, error_model="numpy")
def average_precision_columns(bits_nk, first, last, words_xn, positives_t, ap_kt):
    """AP of columns first..last-1 against all traits, into ap_kt[:last - first]. Returns as _descending_keys.

    words_xn[x, i]: bit l says whether image i has trait LABEL_BITS * x + l. A run of images is added as if no scores
    were equal, only with the weight 1 / n_g of its group; a group of d positives then lacks d (d - 1) / 2 / n_g.
    """
    n = bits_nk.shape[0]
    keys_kn, packed, spare, digits, order, group_end, tie_start = _sort_scratch(n)
    weight = np.empty(n)
    count = np.empty(LABEL_BITS)
    before = np.empty(LABEL_BITS)
    total = np.empty(LABEL_BITS)
    for column in range(first, last, _COLUMNS):
        width = min(_COLUMNS, last - column)
        not_finite = _descending_keys(bits_nk, column, width, keys_kn)
        if not_finite >= 0:
            return not_finite
        for k in range(width):
            m, n_ties = _descending_order(keys_kn[k], packed, spare, digits, order, group_end, tie_start)
            for j in range(m):
                weight[j] = 1.0 / group_end[j]
            for x in range(words_xn.shape[0]):
                count[:] = 0.0
                total[:] = 0.0
                done = 0
                for tie in range(n_ties - 1, -1, -1):
                    start = tie_start[tie]
                    end = group_end[start]
                    _add_run(words_xn[x], order, weight, done, start, count, total)
                    before[:] = count
                    _add_run(words_xn[x], order, weight, start, end, count, total)
                    for lane in range(LABEL_BITS):
                        d = count[lane] - before[lane]
                        total[lane] += weight[start] * (0.5 * d * (d - 1.0))
                    done = end
                _add_run(words_xn[x], order, weight, done, m, count, total)
                for lane in range(min(LABEL_BITS, positives_t.size - LABEL_BITS * x)):
                    t = LABEL_BITS * x + lane
                    ap_kt[column - first + k, t] = _close(total[lane], count[lane], positives_t[t], n)
    return -1


@njit(nogil=True, cache=CACHED, error_model="numpy")
def _close(total, count, positives, n):
    """AP from the sum over all groups but the lowest, which adds (P - c) P / N; NaN without positives."""
    if positives == 0:
        return np.nan
    return min(1.0, total / positives + (positives - count) / n)


@njit(nogil=True, cache=CACHED, error_model="numpy")
def average_precision_masked_columns(
    bits_nk,
    first,
    last,
    valid_nt,
    positive_start_n,
    positive_trait_e,
    positives_t,
    n_valid_t,
    inverse_n,
    ap_kt,
):
    """As average_precision_columns, where image i counts for trait t only if valid_nt[i, t].

    The traits that image i has, and is valid for, are positive_trait_e[positive_start_n[i]:positive_start_n[i + 1]].
    n_g differs between traits, so it is counted, and 1 / n_g looked up in inverse_n[n] = 1 / n.
    """
    n, n_traits = valid_nt.shape
    keys_kn, packed, spare, digits, order, group_end, tie_start = _sort_scratch(n)
    seen = np.empty(n_traits, np.int32)
    count = np.empty(n_traits, np.int32)
    total = np.empty(n_traits)
    for column in range(first, last, _COLUMNS):
        width = min(_COLUMNS, last - column)
        not_finite = _descending_keys(bits_nk, column, width, keys_kn)
        if not_finite >= 0:
            return not_finite
        for k in range(width):
            m, _ = _descending_order(keys_kn[k], packed, spare, digits, order, group_end, tie_start)
            seen[:] = 0
            count[:] = 0
            total[:] = 0.0
            start = 0
            while start < m:
                end = group_end[start]
                for j in range(start, end):
                    i = order[j]
                    for t in range(n_traits):
                        seen[t] += np.int32(valid_nt[i, t])
                    for e in range(positive_start_n[i], positive_start_n[i + np.uint32(1)]):
                        count[positive_trait_e[e]] += np.int32(1)
                for j in range(start, end):
                    i = order[j]
                    for e in range(positive_start_n[i], positive_start_n[i + np.uint32(1)]):
                        t = positive_trait_e[e]
                        total[t] += count[t] * inverse_n[seen[t]]
                start = end
            for t in range(n_traits):
                ap_kt[column - first + k, t] = _close(total[t], count[t], positives_t[t], n_valid_t[t])
    return -1


@njit(nogil=True, cache=CACHED, error_model="numpy")
def average_precision_weighted_columns(bits_nt, first, last, label_tn, valid_tn, counts_xnr, debiased, ap_tr):
    """AP of column t against label t where image i is there counts_xnr[x, i, r] times, for t = first..last-1.

    With R counts in a tile, ap_tr holds R * x + r for each t. An image with valid_tn[t, i] == 0 is never there.
    With `debiased`, debiased AP (see `saetools.metrics.bootstrap`). Each column is sorted once for all
    resamples. Returns as _descending_keys.
    """
    n = bits_nt.shape[0]
    tile = counts_xnr.shape[2]
    keys_kn, packed, spare, digits, order, group_end, tie_start = _sort_scratch(n)
    seen = np.empty(tile, np.int32)
    count = np.empty(tile, np.int32)
    gain = np.empty(tile, np.int32)
    n_there = np.empty(tile, np.int32)
    positives = np.empty(tile, np.int32)
    total = np.empty(tile)
    alone = np.empty(tile)
    for t in range(first, last):
        not_finite = _descending_keys(bits_nt, t, 1, keys_kn)
        if not_finite >= 0:
            return not_finite
        m, _ = _descending_order(keys_kn[0], packed, spare, digits, order, group_end, tie_start)
        for x in range(counts_xnr.shape[0]):
            n_there[:] = 0
            positives[:] = 0
            for i in range(n):
                if valid_tn[t, i]:
                    for r in range(tile):
                        n_there[r] += np.int32(counts_xnr[x, i, r])
                    if label_tn[t, i]:
                        for r in range(tile):
                            positives[r] += np.int32(counts_xnr[x, i, r])
            seen[:] = 0
            count[:] = 0
            gain[:] = 0
            total[:] = 0.0
            alone[:] = 0.0
            start = 0
            while start < m:
                end = group_end[start]
                gains = False
                for j in range(start, end):
                    i = order[j]
                    if valid_tn[t, i]:
                        for r in range(tile):
                            seen[r] += np.int32(counts_xnr[x, i, r])
                        if label_tn[t, i]:
                            gains = True
                            for r in range(tile):
                                gain[r] += np.int32(counts_xnr[x, i, r])
                if gains:
                    for r in range(tile):
                        count[r] += gain[r]
                    if debiased:
                        for j in range(start, end):
                            i = order[j]
                            if label_tn[t, i] and valid_tn[t, i]:
                                _add_debiased(counts_xnr[x, i], count, seen, positives, total, alone)
                        gain[:] = 0
                    else:
                        for r in range(tile):
                            n_g = np.float64(seen[r]) + np.float64(seen[r] == 0)
                            total[r] += np.float64(gain[r]) * np.float64(count[r]) / n_g
                            gain[r] = 0
                start = end
            for r in range(min(tile, ap_tr.shape[1] - tile * x)):
                after = positives[r] / max(n_there[r], np.int32(1)) if count[r] < positives[r] else 1.0
                total[r] += alone[r] * 0.5 * (1.0 + after)
                ap_tr[t, tile * x + r] = _close(total[r], count[r], positives[r], n_there[r])
    return -1


@njit(nogil=True, cache=CACHED, error_model="numpy")
def _add_debiased(copies, count, seen, positives, total, alone):
    """Add, for the copies of one positive, their number times the precision at their score without them.

    Of c positives and n images at the score or above, m are the copies. Without them P - m positives are left, so
    each counts P / (P - m) times, which keeps the prevalence: precision a / (a + b) with a = P (c - m) and
    b = (P - m) (n - c), or P / (P + n - c) where c = P and P - m cancels. Copies that have nothing beside them
    wait in `alone`: they get the middle between 1 and the precision of the next positive.
    """
    for r in range(copies.size):
        m = np.float64(copies[r])
        all_positives = np.float64(positives[r])
        a = all_positives * (np.float64(count[r]) - m)
        others = np.float64(seen[r]) - np.float64(count[r])
        nothing = a + others == 0.0
        b = (all_positives - m) * others
        if count[r] == positives[r]:
            a, b = all_positives, others
        precision = a / (a + b) if a + b > 0.0 else 0.0
        waiting = alone[r]
        ends = m > 0.0 and not nothing
        total[r] += m * precision + (waiting * 0.5 * (1.0 + precision) if ends else 0.0)
        alone[r] = 0.0 if ends else waiting + (m if nothing else 0.0)
