"""Programs built on vaeport."""
