"""What every part of the program needs and that needs none of it: errors, time, tasks, logs."""
