"""PostgreSQL: the only place that decides. SQL lives here and nowhere else."""
