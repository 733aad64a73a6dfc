"""Results to look at: HTML pages, contact sheets and plots, in files that need no network."""
