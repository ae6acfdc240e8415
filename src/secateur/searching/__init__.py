"""The search for a schedule: what `secateur.search` and the command `secateur search` run, in the order of the data.

search       `search(pipe, prompts, keep=0.2)`, and `search_steps`, the generator beneath it
settings     what a search tries, and for how long
sampler      the pipe's sampler, or DDIM if that one cannot be searched
task         what a search works on, and what its stages measure once
objective    how near the images of a schedule come to target images
paired_gain  when a gain is significant
stages       the stages one after the other, each from the best so far
budget       rows of blocks within a budget of MACs
ladder       noise levels, and what one update from any of them to any other gives
sensitivity  how much an error at a noise level shows in the images
error_model  what calls cost, for each way of holding
additive     stage `additive`: the best calls by an additive model of the error, solved exactly
paths        the best path over whole, partial and held calls
refresh      stage `refresh`: calls that refresh some of the blocks
cells        stage `cells`: single cells, by the loss that reusing each one costs
rows         the coefficients of a schedule's sampler, fitted to the dense latents
local        stage `local`: a local search on measured error
moves        the changes that the local search tries
dip_go/      stage `gradient`: the paper's search
random_and_genetic  random and genetic search, to compare with
"""
