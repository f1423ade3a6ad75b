"""Messages and stubs of `cache_sidecar.v1`, generated from the protos."""
