"""Stories written, made and watched in a browser; needs the extra `app`."""
