"""Active latents of rows, transposed to rows of latents, max-pooled over images, and put together from pieces."""

from saetools.compute.kernels.compiled import njit


@njit(error_model="numpy", cache=True, nogil=True)
def count_columns(indptr, indices, keep_b, count_k):
    """count_k += number of values in each column, in the rows that are kept."""
    for b in range(keep_b.size):
        if keep_b[b]:
            for e in range(indptr[b], indptr[b + 1]):
                count_k[indices[e]] += 1


@njit(error_model="numpy", cache=True, nogil=True)
def fill_columns(indptr, indices, values, keep_b, first_row, place_k, rows, out_values):
    """Write the kept rows' values column by column, ascending by row; place_k: where each column's next value goes."""
    for b in range(keep_b.size):
        if keep_b[b]:
            for e in range(indptr[b], indptr[b + 1]):
                k = indices[e]
                place = place_k[k]
                rows[place] = first_row + b
                out_values[place] = values[e]
                place_k[k] = place + 1


@njit(error_model="numpy", cache=True, nogil=True)
def pool_columns(indptr, rows, values, n_patches, pooled_indptr):
    """In place: each image's values in a column become their maximum, row the image; returns how many are left.

    Patches without a value are zeros, so the maximum is at least 0 unless every patch of the image has one. Images
    whose maximum is 0 are left out.
    """
    n = 0
    for k in range(indptr.size - 1):
        e = indptr[k]
        stop = indptr[k + 1]
        pooled_indptr[k] = n
        while e < stop:
            image = rows[e] // n_patches
            largest = values[e]
            first = e
            e += 1
            while e < stop and rows[e] // n_patches == image:
                largest = max(largest, values[e])
                e += 1
            if largest > 0 or (largest < 0 and e - first == n_patches):
                rows[n] = image
                values[n] = largest
                n += 1
    pooled_indptr[indptr.size - 1] = n
    return n


@njit(error_model="numpy", cache=True, nogil=True)
def append_piece(piece_indptr, piece_rows, piece_values, place_k, rows, values):
    """Copy each column's run of a piece to where the column goes on; place_k moves on."""
    start = piece_indptr[0]
    for k in range(place_k.size):
        place = place_k[k]
        for e in range(piece_indptr[k] - start, piece_indptr[k + 1] - start):
            rows[place] = piece_rows[e]
            values[place] = piece_values[e]
            place += 1
        place_k[k] = place
