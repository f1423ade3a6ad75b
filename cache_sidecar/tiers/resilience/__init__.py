"""What is done when a tier is slow, full or away."""
