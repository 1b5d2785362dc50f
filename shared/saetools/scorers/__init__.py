"""SAEs and the baselines beside them: what they compute, and their files."""
