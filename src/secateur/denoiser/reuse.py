"""The kinds of reuse: what a block can give when it does not run. Needs no torch.

output       its last output
residual     its input plus what it last added to it
extrapolate  the line through its last two outputs
"""

KINDS = ("output", "residual", "extrapolate")
