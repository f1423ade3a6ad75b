"""The settings, read once at the start, and the policy, which can change at run time."""
