"""Where and how fast it is computed: devices, threads, kernels."""
