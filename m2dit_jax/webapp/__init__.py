"""Stories written, made and watched in a browser; needs requirements-app.txt."""
