"""Reads thousands of damaged inputs, and finds those that end in anything but a message."""
