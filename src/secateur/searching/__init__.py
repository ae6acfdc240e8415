"""The search for a schedule, a file a stage: what `secateur search` runs.

task       what is searched for, and what calls cost
objective  measured error of a schedule, and when a gain is sure
find       the stages one after the other, each from the best so far
ladder     noise levels, and what one update from any of them to any other makes
sensitivity  how much an error at a noise level shows in the images
additive   stage `additive`: the best calls by an additive model of the error, solved exactly
paths      the best path over whole, partial and held calls
refresh    stage `refresh`: calls that refresh some of the blocks
cells      stage `cells`: single cells, by the loss that each one's reuse costs
local      stage `local`: a local search on measured error
moves      the changes that the local search tries
budget     rows within a budget of MACs
rivals     random and genetic search, to compare with
dip_go/    stage `gradient`: the paper's search
"""
