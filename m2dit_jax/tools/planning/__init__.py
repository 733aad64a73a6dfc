"""What a program needs on a machine that is not there."""
