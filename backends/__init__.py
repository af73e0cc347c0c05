"""Ways to run a cascade. `reference` is the definition of meaning."""
