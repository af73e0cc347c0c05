"""What a cascade costs, and why: passes, footprints, work, traffic, dependence."""
