"""numba kernels of audit-latents; their callers check the arguments."""
