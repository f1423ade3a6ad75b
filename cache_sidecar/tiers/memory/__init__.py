"""L1, the memory of this process: one in Python, one in Rust, behind one port."""
