"""Compiler passes: pure functions from Graph to Graph."""
