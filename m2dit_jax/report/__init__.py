"""Pages that show stories: one HTML file each, which needs nothing else and no network."""

from m2dit_jax.report.story import PAGE, write_page

__all__ = ["PAGE", "write_page"]
