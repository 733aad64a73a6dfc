"""What is shown of results: HTML pages, contact sheets and plots, in files that need no network."""
