"""A sweep as chained Slurm arrays: scripts, what was submitted, and how far it is."""
