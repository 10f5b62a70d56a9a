"""The NeMo tutorials' scripts: named flags, which fill the same 25 values.

flags.py, command_line.py, wording.py    the table of flags, the parser, and messages in the words that were typed
translate.py                   flags into the 25 values and MP_ variables
model_names.py, hub.py         what models are called there; folders by their hub name
cli.py, convert.py, data.py    pretraining and finetuning; conversion; preprocessing
"""
