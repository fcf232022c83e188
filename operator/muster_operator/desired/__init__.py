"""What the children of our objects shall look like: pure builders, one file for each kind of child."""
