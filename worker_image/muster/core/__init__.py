"""Pure decisions of the engine: functions of values and a given time. No I/O, clock, randomness or log."""
