"""The live view of a running stack in the terminal."""
