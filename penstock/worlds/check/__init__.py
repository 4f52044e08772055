"""Checks a world that somebody wrote. `check_world` is the front door."""

from penstock.worlds.check.checker import Finding, check_world, iterate_checks, refuse_faulty

__all__ = ["Finding", "check_world", "iterate_checks", "refuse_faulty"]
