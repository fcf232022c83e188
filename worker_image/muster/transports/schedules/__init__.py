"""Beat's place on the broker: election, schedules, runs, and ticks that happen once."""
