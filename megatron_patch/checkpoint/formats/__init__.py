"""How weights lie on disk: each format read and written by row ranges, so that memory does not grow with the model.

sources.py             the one interface of all that is read, and blocks made of it
hf_folder.py, hf_writer.py, safetensors_io.py        a Hugging Face folder
torch_dist.py, torch_record.py                       Megatron's checkpoints of today
per_rank_reader.py, per_rank_writer.py               and of old: mp_rank_XX_YYY/model_optim_rng.pt
"""
