"""`bitgraph bench`: speed, memory and kernels, each side of a comparison in its own process.

`command.py` has the options, `sides.py` runs processes, `run_side.py` is what they run.
`measure.py` and `start.py` measure whole jobs, `kernel_times.py` and `single.py` kernels, `work.py`
and `ceilings.py` say how fast these could be, `show.py` prints. `torch_side.py` needs nothing else
of this project.
"""
