"""Measures what is served on a GPU, section by section, on a machine that has little else."""
