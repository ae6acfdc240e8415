"""Pruning in depth: which layers go, and the student without them.

plan       the artifact: removed layers, and how each goes
presets    the plans of BK-SDM
layer_scores  what leaving each layer out costs, as an artifact
layer_costs   parameters, MACs or milliseconds of each layer
bypass     a layer left out for a while, to be scored
criteria   what a layer's absence costs, by any criterion
scoring    the scores of all layers
planning   the plan of any budget
surgery    the cut
prune      `prune(pipe, keep=0.5)`: scores, plan and cut
card       a student on the Hub, with its card
student    U-Nets without some of their layers, which diffusers saves and loads
"""
