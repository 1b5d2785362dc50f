"""edit-latents: what changing latents inside a network does to its predictions."""
