"""The model as Secateur sees it: its blocks, and what each costs.

of_pipe    the denoiser of a pipe
rows       one row of data for each class of denoiser that needs one: the only place where architectures differ
families   the row of a denoiser's class, or what is found out about it
found      blocks and inputs of a class without a row, found by trying it on the meta device
arguments  what one call takes: layouts by the arguments' names, widths by the layers that read them
on_meta    evaluations on the meta device, which know what values follow from shapes and inputs
graph      which module reads which, and which inputs its outputs continue
reuse      the kinds of reuse: what a block can give when it does not run
blocks     names of the blocks in execution order, and the edges between them, traced on the meta device
streams    which of a block's inputs its outputs continue
patch      replaces the forward of each block, reversibly: the only file that touches a model's attributes
macs       multiply-accumulates of each block, both conventions; configs/ holds full-size configurations
times      what each block takes on this device
fingerprint  a model's weights and files as a SHA-256
"""
