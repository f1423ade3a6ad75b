"""What callers see during each outage."""
