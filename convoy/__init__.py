"""The public name of Convoy's Python API. It is empty so far: importing it loads nothing else."""
