"""Commands for people on call, which ask a running sidecar."""
