"""A Hugging Face tokenizer folder: what is in it, and text to token ids.

folder.py                 what its files say, read as transformers reads them. Standard library only
text_tokenizer.py         text to ids, as AutoTokenizer gives them
engines.py                the fastest engine that gives the same
sentencepiece.py, sentencepiece_hf.py      a SentencePiece model: its size; as a Hugging Face tokenizer
"""
