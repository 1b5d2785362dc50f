"""numba kernels of encode-acts; their callers check the arguments."""
