"""The model as Secateur sees it: its blocks, and what each costs.

of_pipe    the denoiser of a pipe
families   one row of data for each class of denoiser: the only place where architectures differ
reuse      the kinds of reuse: what a block can give when it does not run
blocks     names of the blocks in execution order, and the edges between them, traced on the meta device
streams    which of a block's inputs its outputs continue
patch      replaces the forward of each block, reversibly: the only file that touches a model's attributes
macs       multiply-accumulates of each block, both conventions; configs/ holds full-size configurations
times      what each block takes on this device
fingerprint  a model's weights and files as a SHA-256
"""
