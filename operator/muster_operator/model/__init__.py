"""What was seen of the world and what shall be done to it: values without effects."""
