"""What a stock diffusers pipeline gives: images, the dense trajectory, and what its denoiser is asked in training.

pipes      pipelines by name: of the zoo, of a folder, of the Hub
solvers    what a scheduler can do: hold calls, place them, begin anywhere
generate   prompts and seeds in, images out, and the trajectory that led to them
examples   latents and conditions, as a denoiser is asked in training
"""
