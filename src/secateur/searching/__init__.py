"""The search for a schedule: what `secateur.search` and the command `secateur search` run, in the order of the data.

search       `search(pipe, prompts, keep=0.2)`, and `search_steps`, the generator beneath it
settings     what a search tries, and for how long
task         what a search works on
teacher      the latents that samplers of few calls should lead to
memo         what was measured, kept in a folder: a search that was stopped goes on
objective    how near the images of a schedule come to target images
paired_gain  when a gain is significant
stages       the stages one after the other, each from the best so far
budget       rows of blocks within a budget of MACs
placing      stage `additive`: what each update between two noise levels misses at least
paths        the best path over whole and partial calls, exact
refresh      stage `refresh`: calls that refresh some of the blocks
cells        stage `cells`: single cells, by the loss that reusing each one costs
rows         the coefficients of a schedule's sampler, fitted to the teacher
gradient_steps  stage `gradient-steps`: a sampler's rows and timesteps, moved by the gradient of the images
local        stage `local`: a local search on measured error
moves        the changes that the local search tries
dip_go/      stage `gradient`: the paper's search
"""
