"""Ways to write a cascade: the `.cascade` language and the Python builder."""
