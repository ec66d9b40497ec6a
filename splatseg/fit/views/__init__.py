"""Views for a splat that comes without photos: planned from the splat itself, and rendered."""
