"""Puts the sidecar into pods: as a webhook and as a command. `README.md` beside it says how."""
