"""The version, which is that of the sidecar."""

VERSION = "0.2.0"
