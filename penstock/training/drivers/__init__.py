"""Drivers: who steps the world, keeps memory and clock, and feeds the learner."""
