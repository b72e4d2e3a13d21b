"""`mats demo`: real models on embedded data, trained, measured, merged by every method, evaluated, explained."""

from mats.demo.story import DEFAULT_SEEDS, DemoResult, run_demo

__all__ = ["DEFAULT_SEEDS", "DemoResult", "run_demo"]
