"""Benchmarks: suites of tasks and configurations as data, trained over seeds, and the report on them."""
