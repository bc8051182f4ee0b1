"""Checks of a set-up, before it is started or while it runs."""
