"""Answers as streams of server-sent events, in whichever form."""
