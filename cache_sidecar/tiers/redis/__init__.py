"""L2: the shared Redis or Valkey. Beside `tiers/coherence`, the only code that speaks to it."""
