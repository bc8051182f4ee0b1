"""Servers, real and fake, that tests talk to."""
