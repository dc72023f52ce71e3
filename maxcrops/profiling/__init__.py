"""Measured on this machine: timings of maxcrops beside what it stands in for, outputs compared first."""
