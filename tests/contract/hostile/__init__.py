"""Clients that mean harm, against a sidecar that is a process, and what others notice of them."""
