"""render-visuals: pictures, one static page and plots of what latents fire on."""
