"""From files to the batch of a step, on one rank.

datasets.py               documents (.bin, .idx) as Megatron's GPTDataset; index_cache.py keeps its shuffled order
sft.py                    conversations (data/sft) in rows, packed
batch.py                  one rank of each tensor-parallel group reads, the others receive
id_check.py, content.py   ids outside of the vocabulary, and data that were exchanged between two starts
batch_origin.py           which documents and files a batch is of, for messages
token_ids.py              what training asks of a tokenizer
"""
