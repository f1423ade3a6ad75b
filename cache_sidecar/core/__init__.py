"""Basics that every other part uses: errors, time, background tasks, logs, and the health of dependencies."""
