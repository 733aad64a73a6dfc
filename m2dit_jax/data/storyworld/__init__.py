"""Procedural little films: actors with faces walk, jump, turn and meet in places with things.

Beside what the captions say, stories have what no caption says and all scenes share: the pattern on
an actor's body, where the things of a place stand, and the light of the global prompt.
"""
