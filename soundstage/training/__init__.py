"""Train modules: what nano's parts, LoRAs and fine-tuning share.

loop.py        one trainer for any module: a generator of events, with a state that survives a kill
optimizers.py  the schedule of rates; which weights AdamW and which Muon trains
muon.py        momentum, orthogonalised
noising.py     a batch noised by sampling's own rule, and the loss on velocities
attention.py   attention and number formats for training on a CPU
curves.py      the table of losses and its picture
terminal.py    a trainer run in a terminal, until it is complete or a signal stops it
"""
