"""`understudy emulate`: a cluster of containers with the memory, the cores and the links of small machines.

Pure: `links` (the cluster that is emulated), `traffic` (what tc is told), `project` (the files of the Compose
project), `scenario` (what goes wrong, and when), `report`. With effects: `engine` (the docker command), `samples` and
`stream` (frames, and what is said of them); `preparation`, `run` and `rehearsal` (before containers run, while they do,
and all of it). docs/emulation.md is the prose of this package.
"""
