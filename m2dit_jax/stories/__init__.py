"""Stories of any length: generated group by group, kept scene by scene, rebuilt where changed."""
