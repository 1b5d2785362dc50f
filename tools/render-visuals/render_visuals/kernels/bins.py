"""The bins of activation values: four to an octave, from 2^-12 to 2^12, equal steps within an octave."""

FIRST_BIN = (127 - 12) * 4  # of a float32's bits, shifted right by 21: exponent (bias 127) and two bits
N_BINS = 24 * 4


def lower_edge(place: int) -> float:
    """The smallest value of a bin; everything smaller is in bin 0, everything larger in the last."""
    octave, quarter = divmod(place, 4)
    return 2.0 ** (octave - 12) * (1 + quarter / 4)
