"""Pruning in time: the Schedule, how it is made without a search, and how a pipeline follows it.

holds      the ways of holding calls
schedule   the artifact: which blocks run at which call
baselines  schedules that need no search: evenly held calls, DeepCache, FORA, Δ-DiT, the published DiP-GO schedule
scores     a value for each cell, as an artifact
allocate   from scores to the schedule of any budget
fit        whether a schedule fits a denoiser and a scheduler
acts       what each cell does with the cache
cache      what is kept from call to call
lines      the line through the last two outputs
subnet     a denoiser that follows a schedule: the runtime
following  a stock scheduler that steps a subnet too, each thread for itself
sampled    a pipe that draws by a schedule's sampler: no patch
apply      `apply(pipe, schedule)`, `remove(pipe)`, `follow(denoiser, schedule)`
drawing    a schedule as a picture
card       a schedule on the Hub, with its card
fold       held calls left out: a sampler of fewer calls, the same images
export     that sampler for other programs
"""
