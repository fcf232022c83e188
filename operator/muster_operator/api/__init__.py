"""What users write and read: the resources' types, and everything generated from them. Values only."""
