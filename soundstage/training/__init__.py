"""Train modules: what nano's parts, LoRAs and fine-tuning share.

loop.py        one trainer for any module: a generator of events, with a state that survives a kill
steps.py       losses and gradients of a batch, on a GPU as recordings
batches.py     what a step is computed on
workers.py     data made ahead by other processes
optimizers.py  the schedule of rates; which weights AdamW and which Muon trains
muon.py        momentum, orthogonalised
noising.py     a batch noised by sampling's own rule, and the loss on velocities
precision.py   number formats and attention kernels, by device
attention.py   attention for training on a CPU
curves.py      the table of losses and its picture
terminal.py    a trainer run in a terminal, until it is complete or a signal stops it
"""
