"""Distilling a student: normalized feature distillation.

settings   how a student is distilled
sources    where examples come from, checked before any work
pictures   pictures and captions: of a folder, of the Hub, of tar files
encoded    examples made of them
store      examples on disk
samples    the samples of an update, by number
features   what is compared inside of teacher and student
terms      the terms of the loss
update     one update
held_out   how near the student is to its teacher on samples that it did not learn from
checkpoints  what a training resumes from
deepspeed  what DeepSpeed needs in addition
processes  what stands for accelerate in one process
training   `distil_steps(teacher, student, ...)`: an update a step, resumable
distil     `distil(student, teacher, prompts)`: the examples and the training
"""
