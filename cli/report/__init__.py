"""What remains of a run for people: a page and a picture, made from its metrics alone."""
