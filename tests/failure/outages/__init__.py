"""What callers see of each outage."""
