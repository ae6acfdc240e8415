"""What a stock diffusers pipeline gives: images, the dense trajectory, and what its denoiser is asked in training.

pipes      pipelines by name: of the zoo, of a folder, of the Hub
prompts    prompts and class labels, checked against a pipe
schedulers  diffusers' schedulers by name, and as a pipe's own for a while
solvers    what a scheduler can do: place its calls, or hold them
table      a deterministic sampler as one matrix, read off any scheduler
multistep  a diffusers scheduler that follows a table
generate   prompts and seeds in, images out
pixels     images as tensors, as bytes and as PNG files
trajectory  the dense trajectory: recorded, and replayed
queries    the arguments with which a pipeline calls its denoiser first
noise      latents with noise, and what should be predicted from them
examples   latents and conditions, as a denoiser is asked in training
progress   a progress bar for any long job
"""
