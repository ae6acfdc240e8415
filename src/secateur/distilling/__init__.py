"""Teaching a student: normalized feature distillation.

pictures   pictures and captions: of a folder, of the Hub, of tar files
store      encoded examples on disk
samples    the samples of an update, by number
features   what is compared inside of teacher and student
terms      the terms of the loss
update     one update
distil     `distil(teacher, student, ...)`: an update a step, resumable
checkpoints  what a training resumes from
deepspeed  what DeepSpeed needs besides
"""
