"""What looplab costs beside its peers, on this machine: `scripts/benchmark --help`.

Read `workloads` (what is trained), `clock` (what is timed), `ways/` (how each peer trains it), `measure`
(one process, one number), `plan` (which of them), `runner` (rounds of processes), `results` (the file) and
`tables` (what a person sees). `startup` is a section of its own: how soon the commands answer.

Not part of the wheel; looplab imports nothing from here.
"""
