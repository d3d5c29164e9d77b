"""The data-health page: what a reinforced dataset holds, to look at before a student learns it."""

from distill.health_page.writing import health_fragment, write_health

__all__ = ["health_fragment", "write_health"]
