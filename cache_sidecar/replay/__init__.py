"""`cache-sidecar replay`: real orders as shoppers, through a sidecar and through what shops do without one."""
