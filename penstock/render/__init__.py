"""Draws scenes on the CPU, without a window: frames and videos."""
