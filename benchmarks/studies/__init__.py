"""The lectures' claims, measured: a file a claim. The verdicts are in
benchmarks/results/lectures/README.md.
"""
