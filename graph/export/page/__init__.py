"""The parts of the page that `html.py` puts together: markup, style and scripts."""
