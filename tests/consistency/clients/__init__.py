"""The clients of a run, by what they call for."""
