"""Images as the model saw them, and pictures of latents drawn from them."""
