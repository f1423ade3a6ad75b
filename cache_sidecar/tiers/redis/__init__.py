"""L2: the shared Redis or Valkey. Apart from `tiers/coherence`, the only code that connects to it."""
