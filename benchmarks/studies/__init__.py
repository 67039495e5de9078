"""The lectures' claims, measured: a file a claim. LECTURES.md has the verdicts."""
