"""Benchmarks against peers, one file per question; `make bench` runs them all, `make bench ONLY=name` one.

Nothing here is a test: no number decides whether a change lands. Peers and subjects run side by side in one run, and
what is shown are medians and ratios.
"""
