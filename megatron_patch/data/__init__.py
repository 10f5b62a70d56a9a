"""Text and conversations to training data. Nothing here imports torch but sft/dataset.py.

rows.py            rows of JSON, Parquet, Arrow: the one reader; jsonl.py, parquet.py, arrow.py, compressed.py below it
sources.py         which files of a folder are data
first_rows.py      whether files begin with conversations, before a start
columns.py         which columns a file has, where a dataset_info.json says so
tokenizers/        a Hugging Face tokenizer folder: what is in it, and text to ids
idxmap/            Megatron's .bin and .idx: writer, reader, merged, resumed
preprocess.py      text to .bin and .idx: the command; its work: pretraining.py, corpus.py, fast_tokenize.py
sft/               conversations: recognised, rendered, masked, tokenized once, packed
blend.py           DATASET_PATH: several data sets by weight
verify.py, check_idxmap.py      whether .bin and .idx are whole, and can be trained on
"""
