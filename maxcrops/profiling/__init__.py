"""Measured on this machine: timings of maxcrops beside what it stands in for, and real models at each max_crops."""
