"""Numbers on the command line."""

import math
from typing import Any

import click


class Range(click.FloatRange):
    """A number within bounds.

    click's own type accepts `nan`, which is neither below nor above any bound: `--max-deleted nan` would delete everything.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number, or fails with what would be valid."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
