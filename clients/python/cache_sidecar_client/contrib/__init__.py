"""Pieces for frameworks, none of which the client needs: Django, Flask, FastAPI."""
