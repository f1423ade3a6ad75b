"""`cache-sidecar advise`: what other sizes, times to live and rollouts would do. README.md explains the figures."""
