"""A page for a fleet: many sidecars side by side, those first that are not as the others are."""
