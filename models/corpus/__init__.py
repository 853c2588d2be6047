"""Instruction records of the project's own making, with answers that can be checked."""
