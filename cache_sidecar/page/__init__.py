"""The status page of a sidecar."""
