"""L1, the memory of this process: one in Python and one in Rust, with the same interface."""
