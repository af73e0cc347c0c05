"""The algebra: from a cascade as written to the form with the fewest passes, with a proof."""
