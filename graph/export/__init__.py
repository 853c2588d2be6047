"""Graphs for people and other programs: pictures and files in common formats."""
