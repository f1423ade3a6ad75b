"""`kubectl cache-sidecar`: the plugin, which asks the cluster with kubectl, and sidecars through it."""
