"""A conversation as text, by the tokenizer's own chat template.

template.py      ChatTemplate: the text, and the places in it that are trained
turns.py         where the assistant's turns are in the text
dropped.py, fidelity.py      what the row says and the text does not
variants.py      other writings of a conversation, for a template that refuses it
sandbox.py       Jinja whose work is counted
"""
