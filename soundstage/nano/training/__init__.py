"""Train nano from nothing: a file per part, over the loop of soundstage.training.

parts.py       names of the parts, folders of their training
train.py       a part trained, resumed, exported
text.py  video_vae.py  audio_vae.py  vocoder.py  transformer.py  upsamplers.py  preview.py  distill.py
               for each part its fresh module, its loss at a step, and the file it ends in
runs.py        what a part is trained with: device, sizes, workers
examples.py    the transformer's batches
tasks.py       noise levels and given tokens of the transformer's steps
latents.py     clips of the world, drawn by workers and encoded
stock.py       the latest encoded clips, to draw batches from
sounds.py      sounds of the world
convolutions.py  3-D convolutions as 2-D ones
statistics.py  mean and spread of a VAE's latents
export.py      modules to files and back
install.py     files to a model folder and back
"""
