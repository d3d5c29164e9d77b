"""The data-health page: what a reinforced dataset holds, to look at before a student learns it."""

from distill.health_page.writing import write_health

__all__ = ["write_health"]
