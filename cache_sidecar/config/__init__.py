"""Settings, read once at the start, and the policy, which can change while the program runs."""
