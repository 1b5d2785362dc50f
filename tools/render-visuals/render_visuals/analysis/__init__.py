"""What latents do over a data set: counts, top images, activation maps, similar latents and images."""
