"""The embedded default, end to end: `distill demo`."""

from distill.demo.pipeline import run_demo
from distill.demo.settings import DemoSettings

__all__ = ["DemoSettings", "run_demo"]
