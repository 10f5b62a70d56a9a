"""Conversations to training data. A row's way:

formats/             recognised: messages, ShareGPT, alpaca, prompt and completion -> Conversation
rendering/           Conversation -> text, by the tokenizer's chat template, and where the assistant speaks in it
encoder.py           text -> token ids, and the turn of each
tokenize.py, cache.py    all rows, in parallel, once per data set and machine
selection.py, loss_mask.py    which rows and which tokens are trained (MP_SFT_LOSS, MP_SFT_OVERLONG)
held_out.py          a share of them for validation (MP_SPLIT)
packing.py, layout.py    several conversations in one row
dataset.py           rows as torch tensors: the only importer of torch here

prepare.py is the way for the trainer and the commands, count_rows.py for the driver where a length is in epochs;
inspection.py and side_by_side.py show it to a person; idxmap.py, sidecar.py and build_idxmap.py keep conversations in
.bin and .idx; report.py counts what is not used.
"""
