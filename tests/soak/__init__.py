"""Hours of load with a fault every half minute: nothing may grow or get lost."""
