"""Checks of this machine: what is checked, what was found, why it matters, how to mend it."""
