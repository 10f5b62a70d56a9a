"""Every text in English, by code. `common/messages.py` describes the placeholders.

A pair is an error: what is wrong, and what would be right. Where the place that finds an error says what would be right
(`expected`), the text stands alone.
"""

from __future__ import annotations

GENERAL: dict[str, str] = {
    "comma": ", ",
    "either": "{first} or {second}",
    "position": "position {number} {name}",
    "numbered": "{name} (position {number})",
    "uncoded": "{text}",
    "joined": "{first}{second}",
    "error": "error: {text}",
    "at": "{path}: {what}",
    "problem-count": "{count:problem|problems}; nothing was started.",
    "problem-line": "{where}: {what}: {shown}; valid: {valid}",
    "problem-names": "{first} with {second}",
    "problem-value": "is {value}",
    "problem-value-of": "{name} is {value}",
    "setting": "{name:={value}}",
    "not-set": "not set",
    "see-positions": "`--help` shows all 25 positions.",
    "see-flags": "`--help` shows all flags.",
    "values-missing": "{given} of {wanted} values are given; missing: {missing}",
    "values-missing-and-more": "{given} of {wanted} values are given; missing: {missing}, and what follows it",
    "values-left-over": "more than {wanted} values are given; left over: {left}; "
    "valid after them: --dry-run, --emit k8s",
}

VALUES: dict[str, str] = {
    "not-whole": "not a whole number",
    "not-number": "not a number",
    "not-finite": "not finite",
    "not-boolean": "neither true nor false",
    "out-of-range": "out of range",
    "empty": "empty",
    "unknown-value": "unknown value",
    "unknown-value-nearest": "unknown value; nearest: {nearest}",
    "expect-choice": "{words}",
    "expect-whole": "whole number >= {minimum}",
    "expect-whole-between": "whole number from {minimum} to {maximum}",
    "expect-number": "number >= {minimum:g}",
    "expect-number-above": "number > {minimum:g}",
    "expect-number-between": "number >= {minimum:g} and <= {maximum:g}",
    "expect-number-above-between": "number > {minimum:g} and <= {maximum:g}",
    "expect-data": "one prefix or folder, several, or weights and prefixes; as one argument",
    "expect-valid-data": "like DATASET_PATH, or none",
    "expect-checkpoint": "folder with config.json and *.safetensors, torch_dist checkpoint, none",
    "expect-output": "a folder, new or yours",
    "expect-folder": "a folder",
    "expect-name": "a name",
    "expect-flags": "flags",
    "expect-options": "options",
    "expect-image": "an image, or none",
    "expect-dns-label": "a DNS label",
    "expect-claims": "CLAIM:/FOLDER, several by spaces",
    "expect-time": "MINUTES, HH:MM:SS or DAYS-HH:MM:SS",
    "expect-split": "such as {example}",
    "expect-tokenizer": "folder with tokenizer.json, or a SentencePiece .model",
    "expect-host": "host name or address of the first machine",
    "expect-model": "a name that --list shows",
    "expect-hub-name": "a hub name such as meta-llama/Llama-3.1-8B-Instruct, or a folder",
    "expect-hub-token": "a token; better in HF_TOKEN",
    "expect-wandb-key": "a key; better in WANDB_API_KEY",
}
"""What is wrong with one value by itself, and what kinds of values there are."""

PROBLEMS: dict[str, str | tuple[str, str]] = {
    # layout
    "tp-heads": ("{heads} attention heads do not divide by it", "{TP} {fits}"),
    "tp-kv-heads": ("{groups} KV heads are neither a multiple nor a divisor of it", "{TP} {fits}"),
    "tp-ffn": ("the FFN's {columns} columns do not divide by it", "{TP} {fits}"),
    "tp-vocabulary": ("the vocabulary, padded to a multiple of {multiple}, does not divide by it", "{TP} {fits}"),
    "vp-without-pipeline": ("chunks need a pipeline", "no {name}, or {PP} > 1"),
    "vp-layers": ("a stage of {stage} is not a whole number of chunks of {vp}", "{MP_VP} {fits}"),
    "vp-chunks": ("a stage of {stage} does not divide into {chunks} chunks", "{name} {fits}"),
    "vp-and-chunks": ("{MP_VP} {vp} makes {made:chunk|chunks} a stage, {MP_VP_CHUNKS} says {said}", "one of them"),
    "stage": "{layers:layer|layers}",
    "stage-with-ends": "{layers:layer|layers} (embedding and loss count)",
    "pp-layers": (
        "neither {layers} layers nor {padded} (with embedding and loss) divide by {PP} {pp}",
        "{PP} {fits}",
    ),
    "vp-micro-batches": (
        "chunks need a multiple of {PP} as micro batches per iteration, here {micro_batches}",
        "a {GLOBAL_BATCH_SIZE} that is a multiple of {BATCH_SIZE} x data parallel x {PP}",
    ),
    "ranks-not-divisible": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:GPU|GPUs}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-cpu": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:process|processes} on the CPU",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:GPU|GPUs} of {nodes:machine|machines}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes-cpu": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:process|processes} on the CPU of "
        "{nodes:machine|machines}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "too-many-processes": ("{gpus:GPU is|GPUs are} visible here", "1 to {gpus}"),
    "no-gpu": ("no GPU here; cuda without one is for dry runs", "auto, cpu"),
    # batch, sequence, schedule
    "batch-multiple": (
        "not a multiple of {BATCH_SIZE} x data parallel = {batch_size} x {dp}",
        "a multiple of {multiple}",
    ),
    "sequence-cp": ("not a multiple of 2 x {CP} = {multiple}", "a multiple of {multiple}"),
    "sequence-sp": (
        "{SP:=true} splits {SEQ_LEN} / {CP} = {part} over {TP} {tp}, which does not divide it",
        "a multiple of {multiple}, or {SP:=false}",
    ),
    "sequence-too-long": ("the model reads {limit} tokens at most", "<= {limit}"),
    "padding": ("they have to be the same", "{PAD_LEN} {seq_len}"),
    "rates": ("the end is above the peak", "{MIN_LR} <= {lr:g}"),
    "no-iteration": ("{arithmetic}", "at least {tokens:token|tokens}: one iteration"),
    "warmup-too-long": (
        "warm-up is not shorter than training: {warmup}; {train}",
        "fewer than {limit:iteration|iterations} of warm-up",
    ),
    # precision, activations, optimizer
    "offload-on-cpu": (
        "activations are already on the CPU, and offloading needs Transformer Engine",
        "sel, full, false, none on the CPU",
    ),
    "ac-layers-offload": ("more layers than can be offloaded", "1 to {limit}"),
    "ac-layers-chunk": ("more layers than one model chunk has", "1 to {limit}"),
    "optimizer-offload-needs-do": (
        "only the distributed optimizer can be offloaded",
        "{DO:=true}, or {OPTIMIZER_OFFLOAD:=false}",
    ),
    "optimizer-on-cpu": ("the optimizer is already on the CPU", "false on the CPU"),
    "fp8-no-units": ("{gpu} has no FP8 units", "bf16"),
    "fp8-on-cpu": ("needs a GPU with FP8 units and Transformer Engine", "fp32, bf16 on the CPU"),
    "fp8-rows": (
        "FP8 needs a multiple of 16 tokens per rank, here {BATCH_SIZE} x {SEQ_LEN} / {CP} / {TP} = {rows}",
        "a multiple of 16 per rank, or another {PR}",
    ),
    "fp32-cp": (
        "Transformer Engine has no attention in fp32 over context-parallel ranks",
        "bf16, or {CP} 1; on the CPU fp32 with any {CP}",
    ),
    "attention-on-cpu": ("cuDNN needs a GPU", "auto, flash, unfused on the CPU"),
    "gradient-bf16": ("bf16 sums need {PR} bf16 or fp8", "auto, fp32"),
    "overlap-on-cpu": ("userbuffers are Transformer Engine's, on GPUs", "auto, none on the CPU"),
    "overlap-needs-sp": (
        "only the communication of sequence parallelism overlaps",
        "{TP} > 1 with {SP:=true}, or none",
    ),
    "overlap-one-machine": (
        "a TP group has to lie on one machine and have {most} ranks at most",
        "{TP} that divides the processes of a machine, <= {most}",
    ),
    "overlap-precision": ("Transformer Engine makes these buffers for bf16 and fp8", "{PR:=bf16}, {PR:=fp8}, or none"),
    "overlap-recipe": ("overlap was tried with tensorwise scaling only", "{MP_FP8_RECIPE:=tensorwise}, or none"),
    "memory-cpu": (
        "weights, gradients and optimizer of one process take {needed}, there are {there} of RAM for it",
        "{change}",
    ),
    "memory-gpu": (
        "a rank needs {needed}, the GPU has {there} to give ({MP_MEMORY_CHECK:=0} tries it all the same)",
        "{change}",
    ),
    # model and checkpoint
    "auto-needs-config": ("auto needs a config.json in the checkpoint", "{sizes}, or a checkpoint with it"),
    "config-refused": ("{what}", "a model that can be trained here, or one of the named sizes"),
    "size-is-another": ("{what}", "the checkpoint's size, or auto to take what it is"),
    "expect-weights": "`none`, a Hugging Face folder (config.json and *.safetensors), a Megatron folder "
    "(latest_checkpointed_iteration.txt and iter_NNNNNNN/ or release/), one iter_NNNNNNN/ of it, or the "
    "{OUTPUT_BASEPATH} of an earlier run",
    "no-such-folder": "no such folder",
    "file-not-folder": "a file, not a folder",
    "no-checkpoint": "no checkpoint: it holds {found}",
    "no-checkpoint-empty": "no checkpoint: the folder is empty",
    "no-checkpoint-more": "no checkpoint: it holds {found} and {more} more",
    "config-missing": "safetensors without a config.json",
    "shards-missing": "{missing} of {shards:shard is|shards are} missing: {names}",
    "index-names-no-shard": "model.safetensors.index.json names no shard",
    "config-and-pickles": "config.json, but pickled *.bin weights, which may run code: save them as safetensors",
    "config-without-weights": "config.json, but no weights",
    "checkpoint-torn": "a torch_dist checkpoint that was not written to its end",
    "checkpoint-name": "a torch_dist checkpoint not called iter_NNNNNNN or release, as Megatron's loader asks",
    "checkpoint-tracker": "Megatron loads {folder} only if ../latest_checkpointed_iteration.txt says {pointed}",
    "tracker-wrong": "latest_checkpointed_iteration.txt says {pointed}; a number or 'release' is needed",
    "checkpoint-per-rank": "{folder} is in Megatron's old per-rank format: convert it to torch_dist, with "
    "hf2mcore_convertor_llama3_1.sh --direction mcore2mcore",
    "checkpoint-unfinished": "{folder} was not written to its end; complete: {others}",
    "checkpoint-absent": "{folder} does not exist; complete: {others}",
    "tracker-unfinished": "latest_checkpointed_iteration.txt points to {folder}, which was not written to its end; "
    "complete: {others}",
    "tracker-absent": "latest_checkpointed_iteration.txt points to {folder}, which does not exist; complete: {others}",
    "none": "none",
    "not-megatron": "a Hugging Face folder, not a Megatron checkpoint: no latest_checkpointed_iteration.txt and no "
    ".metadata",
    "index-unreadable": "not a safetensors index ({error})",
    "plan-without-model": "says no architecture ({error})",
    # tokenizer
    "tokenizer-not-named": (
        "without a checkpoint the tokenizer has to be named",
        "{MP_TOKENIZER_PATH}: a folder with tokenizer.json, or a SentencePiece .model",
    ),
    "tokenizer-none": ("no tokenizer: {error}", "{MP_TOKENIZER_PATH}: a folder with tokenizer.json"),
    "tokenizer-too-large": (
        "the tokenizer has {ids:id|ids}, the model {rows:row|rows}: {path}",
        "a tokenizer with no more ids than the model",
    ),
    "tokenizer-absent": "{place} holds no tokenizer.json",
    "tokenizer-not-folder": "{place} is not a folder",
    "tokenizer-unreadable": "{file} cannot be read: {kind}: {error}",
    # data
    "expect-idxmap": "a prefix of .bin and .idx, several, or a blend `0.3 A 0.7 B`",
    "expect-idxmap-or-none": "a prefix of .bin and .idx, several, or a blend `0.3 A 0.7 B`; or none",
    "expect-raw": "a JSON file, several, or a blend `0.3 A 0.7 B`",
    "expect-raw-or-none": "a JSON file, several, or a blend `0.3 A 0.7 B`; or none",
    "blend-empty": "no dataset is named",
    "blend-form": "a blend is weight, path, weight, path: numbers above 0 before every path; found {found}",
    "folder-empty": "the folder {folder} is empty",
    "folder-without-idx": "no .idx in the folder {folder}, nor below it",
    "prefix-with-suffix": "{prefix} is one half: give the prefix, without {suffix}",
    "prefix-white-space": "{prefix} begins or ends in white space, which Megatron cuts off: rename it",
    "no-such-file": "no such file: {files}",
    "no-such-file-commas": "no such file: {files}; datasets are separated by spaces, not by commas",
    "no-such-file-but-idxmap": "no such file: {files}; an idxmap lies there: unset {MP_DATASET_TYPE}",
    "file-empty": "{file} is empty",
    "index-cut": "{file} is cut: {size} bytes, the header alone has {header}",
    "file-missing": "{file} is missing",
    "index-foreign": "{file} is not an index of Megatron's: it does not start with {magic}",
    "index-version": "{file} has version {version}, token type {type}; known: version 1, types {known}",
    "index-empty": "{file} is damaged: it has 0 sequences",
    "index-damaged": "{file} is damaged: {sequences:sequence|sequences} and {boundaries:document boundary|document "
    "boundaries} do not make {size} bytes",
    "data-cut": "{file} has {size} bytes, its index says {expected_size}: not from one run, or cut",
    "raw-no-file": "{path} is not, and does not hold, a file that ends in {suffixes} (before {packed} too)",
    "not-parquet": "{file} is not a Parquet file",
    "not-json-rows": "{file} is not JSON: it begins with neither [ nor {{",
    "raw-without-sft": (
        "raw JSON holds conversations; text for pretraining has to be tokenized first",
        "idxmap (make it with toolkits/pretrain_data_preprocessing), or {SFT:=true}",
    ),
    "packing-without-sft": ("packing is for SFT", "false, or {SFT:=true}"),
    "sft-sentencepiece": (
        "a SentencePiece model has no chat template",
        "a folder with tokenizer.json and a chat template",
    ),
    "sft-idxmap": (
        "{found}",
        "an idxmap that toolkits/sft_data_preprocessing built for this {SEQ_LEN} and tokenizer",
    ),
    "pretraining-idxmap": (
        "{found}",
        "an idxmap that toolkits/pretrain_data_preprocessing made with this tokenizer",
    ),
    "idxmap-check-fails": (
        "the check of the data ended with status {status}: {last}",
        "data that toolkits/sft_data_preprocessing/verify.py takes",
    ),
    "idxmap-damaged": (
        "{found}",
        "whole data: toolkits/sft_data_preprocessing/verify.py says more; make them again",
    ),
    "split-under-sft": ("no splitting under SFT", "unset, and {VALID_DATASET_PATH}"),
    "index-memory": (
        "{path} would be read {epochs} times, and the index of that takes {needed} of RAM; there are {ram}",
        "up to {most} tokens",
    ),
    "split-and-data": (
        "both say where the validation data comes from",
        "one of them; {VALID_DATASET_PATH:=none}",
    ),
    "split-form": ("not shares of training and validation", "such as 99,1"),
    "split-empty-share": (
        "a share of {share} of the {documents:document|documents} in {path} is none",
        "larger shares, such as {suggested}, or more documents",
    ),
    "split-few-documents": (
        "a share of {share} of the {documents:document|documents} in {path} is none",
        "{wanted} documents at least, or {VALID_DATASET_PATH}",
    ),
    # output folder, an earlier run in it
    "output-not-folder": ("{path} is not a folder", "a folder, new or yours"),
    "output-not-writable": ("{path} is not writable", "a folder, new or yours"),
    "output-ending": (
        "another run is still ending there: {holder}",
        "another folder; or wait until it has ended, or stop it",
    ),
    "holder-unknown": "it has not said which",
    "output-in-use": (
        "another run is writing there: {holder}",
        "another folder; or wait until it has ended, or stop it",
    ),
    "fixed-by-checkpoint": (
        "the checkpoints in {OUTPUT_BASEPATH} were made with {before}: {why}",
        "the old value; or a new {OUTPUT_BASEPATH}, with this one as {PRETRAIN_CHECKPOINT_PATH}",
    ),
    "fixed-model": "the checkpoint holds another model",
    "fixed-count": "schedule and data position count in it",
    "fixed-lr": "megatron-core 0.19.2 finds the optimizer's groups again by their learning rates",
    "fixed-optimizer": "the optimizer's state has another form",
    "fixed-data": "the data position belongs to other data",
    "fixed-betas": "megatron-core 0.19.2 takes it from the checkpoint",
    "checkpoint-of-another-model": (
        "the checkpoints in {OUTPUT_BASEPATH} are of {model}: {differences}",
        "that model, or a new {OUTPUT_BASEPATH}",
    ),
    "checkpoints-gone": "they are gone",
    "checkpoints-lost": (
        "it had checkpoints, none of them is complete ({damage}), and a run does not begin anew over them",
        "another folder; or move its checkpoints/ away to begin anew",
    ),
    "differs": "{field} {before} there and {now} here",
    # MP_ variables and the environment
    "unknown-variable": ("unknown variable", "one of the MP_ variables that --help lists"),
    "unknown-variable-nearest": (
        "unknown variable; nearest: {nearest}",
        "one of the MP_ variables that --help lists",
    ),
    "dry-run-value": ("neither 0 nor 1", "0, 1"),
    "master-port-twice": ("{env} takes MASTER_PORT", "unset, or {ENV:=dsw}"),
    "wandb-no-key": ("no key: set WANDB_API_KEY, or WANDB_MODE=offline", "unset, or with a key"),
    "wandb-not-installed": ("the package wandb is not installed", "unset, or `pip install wandb`"),
    "megatron-args-form": ("cannot be split: {error}", "flags as in a shell"),
    "flag-none": ("{value} belongs to no flag", "flags that begin with --"),
    "flag-taken": (
        "{flag}: decided by the 25 values and the MP_ variables",
        "flags that the driver does not give itself",
    ),
    "flag-not-megatrons": (
        "Megatron's parser (megatron-core 0.19.2) knows no {flag}",
        "a flag that it knows, written out",
    ),
    "flag-not-megatrons-nearest": (
        "Megatron's parser (megatron-core 0.19.2) knows no {flag}; nearest: {nearest}",
        "a flag that it knows, written out",
    ),
    "flag-unread": ("{flag} does nothing: nothing in megatron-core 0.19.2 reads it", "without it"),
    "flag-inert": ("{flag} is not taken: {why}", "without it"),
    "flag-on-cpu": ("{flag} does nothing on the CPU: {why}", "without it"),
    "flag-count": ("{flag} takes {wanted}, here {given}", "the flag's values, as Megatron's parser takes them"),
    "flag-takes": "{count:value|values}",
    "flag-takes-some": "one value or more",
    "flag-choice": ("{flag} takes {choices}, not {value}", "the flag's values, as Megatron's parser takes them"),
    "flag-whole": ("{flag} takes a whole number, not {value}", "the flag's values, as Megatron's parser takes them"),
    "flag-number": ("{flag} takes a number, not {value}", "the flag's values, as Megatron's parser takes them"),
    "inert-rampup": "0.19.2 reads it nowhere but in a warning: the batch would not ramp up",
    "inert-mask": "no mask is made or passed: the kernels are causal over the whole sequence",
    "inert-positions": "rotary embeddings count from the start of a sequence, whatever the position ids say",
    "inert-documents": "0.19.2 counts other FLOPs for it and masks nothing",
    "inert-fim": "the data set is ours, and it knows no fill in the middle",
    "inert-experts": "the plan, the checkpoints and the layers are those of a dense model",
    "inert-straggler": "it times CUDA events",
    "instead-vp": "it is {MP_VP}",
    "instead-sft": "it is {SFT:@}",
}
"""Errors of the 25 values and of the MP_ variables."""

CLUSTER: dict[str, str | tuple[str, str]] = {
    "dlc-variable-missing": "ENV=dlc needs it",
    "dlc-rank": ("no such machine: RANK counts from 0", "0 to {last}"),
    "srun-variable": ("srun sets it for every step", "a number"),
    "srun-tasks": (
        "{tasks:task|tasks} on {nodes:node|nodes}; each starts all ranks",
        "srun --ntasks-per-node=1",
    ),
    "slurm-not-installed": "{command} is not installed here: is this a machine of the Slurm cluster?",
    "slurm-no-answer": "{command} did not answer within {seconds} s: Slurm's controller is down",
    "slurm-says": "{command}: {said}",
    "expect-first-node": "the address of the job's first node",
    "expect-other-env": "dsw, dlc; or --dry-run to see the script",
    "slurm-path": ("no #SBATCH line can hold it", 'a path without " \\ or line ends'),
    "slurm-no-pyxis": ("srun has no --container-image here: the pyxis plug-in is not installed", "none"),
    "k8s-env": ("--emit k8s writes a job of ENV=dlc", "dlc"),
    "k8s-image": ("a pod needs an image", "registry/name:tag"),
    "k8s-name": (
        'the job\'s name "{name}" is not a DNS label: a-z, 0-9 and -, beginning with a letter, 63 at most',
        "such as llama31-8b",
    ),
    "k8s-volume": ('"{word}" is not a claim and a folder', "CLAIM:/FOLDER"),
}
"""Errors of the variables that a cluster sets, and of its jobs."""

NOTES: dict[str, str] = {
    # start
    "checkpoint-damaged": "damaged: {what}",
    "checkpoints-broken": "{broken} in {folder}: not written to the end by an earlier run; not used, written anew",
    "weights-not-read": "{PRETRAIN_CHECKPOINT_PATH} is not read: the run goes on from its own checkpoint",
    "output-shared": "{OUTPUT_BASEPATH} has to be one folder shared by all machines: every machine looks there for a "
    "checkpoint",
    "kept-from-step": "kept from iteration {step} of {path}: the weights, {rows:row|rows} of vocabulary",
    "kept-from": "kept from {path}: the weights, {rows:row|rows} of vocabulary",
    "kept-not": "reset: optimizer state, iteration count, learning rate schedule, position in the data, random states",
    "kept-new": "new beside that run: {changes}",
    "kept-change": "{name} {before} -> {now}",
    "kept-tokenizer": "the tokenizer has {ids:id|ids}, that of the earlier run {before}",
    "no-earlier-plan": "{why}: what changed since the last start cannot be told",
    "no-plan": "no plan.json beside the checkpoints",
    "changed": "{name:@} was {before} at the last start and is {now}",
    "changed-remark": "{name:@} was {before} at the last start and is {now}: {remark}",
    "changed-train": "the cosine ends there; the order of the data changes where it is read more than once",
    "changed-warmup": "the learning rate continues on the new curve",
    "changed-data": "as many samples of the new data are skipped as were read of the old",
    "changed-seed": "the order of the data changes",
    "changed-layout": "random states start anew; without dropout nothing draws from them",
    # layout
    "no-gpu-here": "no GPU here: the ranks compute on the CPU",
    "processes-of-layout": "{processes:process|processes} = {TP} x {PP} x {CP}; {MP_NPROC} sets another number",
    "processes-share-cores": "{processes} processes share {cores:core|cores}",
    "gpus-not-here": "planned for {processes:GPU|GPUs} a machine that {processes:?is|are} not here "
    "({MP_NPROC} sets another number)",
    "gpus-left": "{processes} of {gpus:visible GPU is|visible GPUs are} used ({MP_NPROC})",
    "sp-alone": "{SP:=true} does nothing at {TP} 1: there is no second rank to split the sequence with",
    "ends-count": "the layers alone do not divide by {PP}: embedding and loss count as one layer each, at the two ends",
    "stages-uneven": "pipeline stages of {layers} layers: the last has the LM head to do too "
    "({MP_PP_BALANCE:=false} splits evenly)",
    "vp-counts-chunks": "{MP_VP} counts chunks in this folder, as it did when the run began; elsewhere it counts the "
    "layers of one ({MP_VP_CHUNKS} {chunks} says the same outright)",
    "overlap": "communication of tensor parallelism overlaps with the matmuls: {method} ({MP_TP_OVERLAP:=none})",
    "kv-heads-shared": "{TP} is larger than the {groups:KV head|KV heads}: ranks share one, at one more all-gather",
    "fp16-slow": "fp16 has no fast kernels on a CPU: expect a tenth of the speed of fp32",
    # data
    "no-warmup": "no warm-up: fewer warm-up tokens than one iteration has",
    "rows-unused": "the tokenizer has {ids:id|ids}, the model {rows:row|rows}: the rest stays unused",
    "validates-on-training": "the validation data are the training data: their loss says nothing about other text",
    "no-validation": "no validation ({VALID_DATASET_PATH} is none)",
    # values that do nothing
    "idle-ac-layers-pipeline": "{AC:=offload} in a pipeline moves what attention reads, of every layer; "
    "{MP_AC_LAYERS} does nothing",
    "idle-under": "{name:={value}} does nothing under {under}",
    "attention-before-fl": "attention: {MP_ATTENTION_BACKEND:={backend}} goes before {FL:={fl}}",
    "idle-on-cpu": "{name:={value}} does nothing on the CPU",
    # optimizer
    "gradients-bf16": "gradients are summed in bf16, over {micro_batches:micro batch|micro batches} "
    "({MP_GRAD_REDUCE:=fp32})",
    "compact-asked": "the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: "
    "{MP_MOMENTS:=bf16} brings it along",
    "compact-needed": "the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: otherwise it "
    "does not fit",
    "moments-bf16": "Adam's moments are kept in bf16, as in fp32 they do not fit "
    "({MP_MOMENTS:=fp32}; {OPTIMIZER_OFFLOAD:=auto})",
    "fp8-travel-do": "weights travel in bf16, not fp8: {DO:=false}",
    "fp8-travel-offload": "weights travel in bf16, not fp8: the optimizer is offloaded",
    "offload-unknown": "{OPTIMIZER_OFFLOAD:=auto}: the GPU's memory is not known here, so everything is planned to "
    "move",
    "offload-none": "{OPTIMIZER_OFFLOAD:=auto}: the optimizer fits on the GPU, nothing moves",
    "offload-part": "{OPTIMIZER_OFFLOAD:=auto}: {fraction:.0%} of the optimizer moves to the CPU",
    # environment
    "save-between-steps": "checkpoints are written between steps: copies of {copies} would take too much of the {ram} "
    "of RAM here ({MP_BACKGROUND_SAVE:=true} takes them)",
    "wandb-key-alone": "a Weights & Biases key is set, but the package wandb is not installed: nothing is sent there",
    "yours": "{name}={value} is taken from your environment",
}

WARNINGS: dict[str, str] = {
    "memory-warning-gpu": "a rank needs about {needed}, the GPU has {there} to give; cheapest change: {change}",
    "memory-warning-cpu": "a rank needs about {needed}, RAM per process has {there} to give; cheapest change: {change}",
    "disk-one": "one checkpoint takes about {each}, the disk has {free} free",
    "disk-several": "{count:checkpoint takes|checkpoints take} about {size}, the disk has {free} free: {change}",
    "disk-keep": "{MP_KEEP_CHECKPOINTS:={fits}}",
    "disk-interval": "a larger {SAVE_INTERVAL:@}, or another disk",
    "change": "{change}: {size}",
    "change-smaller-cpu": "a smaller {MODEL_SIZE:@}, or a machine with more memory",
    "change-smaller-gpu": "a smaller {MODEL_SIZE:@} or {SEQ_LEN:@}, or GPUs with more memory",
    "change-do": "{DO:=true@}",
    "change-batch": "{BATCH_SIZE:=1@}",
    "change-tp": "{TP:={tp}@} and {SP:=true@}, on the same ranks",
    "change-ac": "{AC:=full@}",
    "change-offload": "{OPTIMIZER_OFFLOAD:=auto@}",
    "change-ac-offload": "{AC:=full@} and {OPTIMIZER_OFFLOAD:=auto@}",
    "change-tp-ac": "{TP:={tp}@}, {SP:=true@} and {AC:=full@}",
    "change-ranks-gpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:GPU|GPUs}",
    "change-ranks-cpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:process|processes}",
    "change-ranks-ac-gpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:GPU|GPUs}, {AC:=full@}",
    "change-ranks-ac-cpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:process|processes}, {AC:=full@}",
}
"""With the changes that a warning advises."""

PLAN: dict[str, str] = {
    "row-model": "model",
    "row-mode": "mode",
    "row-start": "start",
    "row-ranks": "ranks",
    "row-training": "training",
    "row-warmup": "warm-up",
    "row-rate": "rate",
    "row-batch": "batch",
    "row-validation": "validation",
    "row-saving": "saving",
    "row-data": "data",
    "row-tokenizer": "tokenizer",
    "row-memory": "memory",
    "row-files": "files",
    "row-output": "output",
    "row-note": "note",
    "row-warning": "WARNING",
    "row-command": "command",
    "model": "{name}: {size} parameters, {layers:layer|layers}, hidden {hidden}, FFN {ffn}, {heads:head|heads} "
    "({groups} KV), vocabulary {vocabulary}",
    "model-padded": "{name}: {size} parameters, {layers:layer|layers}, hidden {hidden}, FFN {ffn}, {heads:head|heads} "
    "({groups} KV), vocabulary {vocabulary} padded to {rows}",
    "mode-pretraining": "pretraining in {pr} on {device}",
    "mode-finetuning": "finetuning in {pr} on {device}",
    "start-finished": "finished: iteration {step} of {last} is done and saved",
    "start-resumed": "resuming from iteration {step} of {last} in {folder}",
    "start-hf": "weights from the Hugging Face folder {path}",
    "start-mcore": "weights from iteration {step} of {path}",
    "start-release": "weights from the release of {path}",
    "start-random": "random weights, seed {seed}",
    "ranks": "{processes:process|processes} = TP {tp} x PP {pp} x CP {cp} x DP {dp}{more}",
    "ranks-nodes": "{nodes:machine|machines} x {processes:process|processes} = TP {tp} x PP {pp} x CP {cp} x DP {dp}"
    "{more}",
    "ranks-chunks": ", {chunks:chunk|chunks} a stage",
    "ranks-sp": ", sequence parallel",
    "ranks-do": ", distributed optimizer",
    "group-tp": "TP {size}: ranks {ranks} share each layer, and so on",
    "group-cp": "CP {size}: ranks {ranks} share each sequence, and so on",
    "group-dp": "DP {size}: ranks {ranks} see different sequences, and so on",
    "group-pp": "PP {size}: stages start at ranks {ranks}; layers {layers}",
    "group-chunks": "each stage in {chunks:chunk|chunks} ({MP_VP_CHUNKS}), of {each} layers ({MP_VP})",
    "count-sft": "{value:iteration|iterations} (under SFT the value counts iterations, not tokens)",
    "count-tokens": "{value:token|tokens} / ({batch} x {length}) = {iterations:iteration|iterations}",
    "count-tokens-left": "{value:token|tokens} / ({batch} x {length}) = {iterations:iteration|iterations}, "
    "{left:token|tokens} left over",
    "rate-warmup": "0 to {lr:g} over the warm-up, then a cosine to {min_lr:g} at iteration {end}",
    "rate": "{lr:g} at first, then a cosine to {min_lr:g} at iteration {end}",
    "batch": "{sequences:sequence|sequences} x {length:token|tokens} = {tokens:token|tokens}; "
    "{micro_batches:micro batch|micro batches} of {micro} on each of {dp:data-parallel rank|data-parallel ranks}",
    "validation": "{iterations:iteration|iterations} every {interval}, and at the end",
    "saving": "every {interval:iteration|iterations}, and at the end",
    "data-read": "{data} ({tokens:token|tokens}, read {times:.3g} times)",
    "data-validation": "validation: {data}",
    "data-shares": "shares for training and validation: {split}",
    "tokenizer": "{path} ({ids:id|ids})",
    "memory": "about {total} per rank: {parts}",
    "memory-stage": "about {total} per rank of stage {stage}: {parts}",
    "memory-part": "{name} {size}",
    "memory-weights": "weights",
    "memory-gradients": "gradients",
    "memory-optimizer": "optimizer",
    "memory-activations": "activations",
    "memory-logits": "logits",
    "memory-workspace": "workspace",
    "memory-step": "step",
    "memory-host": "and {size} of RAM per rank for the offloaded optimizer",
    "memory-there": "to give: {size} ({where})",
    "memory-there-ram": "to give: {size} (RAM that is free now, shared by the processes)",
    "memory-unknown": "the GPU is not here: nothing to compare with",
    "files-hf": "{folder}: the Hugging Face folder, when training is done",
    "files-checkpoints": "{folder}: {saves} of about {each} each, {when}",
    "files-checkpoints-keep": "{folder}: {saves} of about {each} each, {keep:?the newest is|the newest {keep} are} "
    "kept, {when}",
    "files-between": "written between steps",
    "files-background": "written while training goes on, from a copy in RAM ({copies} a machine)",
}
"""The short plan and the full plan."""

NEMO: dict[str, str | tuple[str, str]] = {
    "nemo-help": "python {script} FLAGS; the flags, with what the tutorials document as default:",
    "nemo-secrets": "tokens were visible in the process list until now; export {names} instead",
    "flag-left-out": "no {flag}",
    "flag-unknown": ("unknown flag", "the flags that --help lists"),
    "flag-unknown-nearest": ("unknown flag; nearest: {nearest}", "the flags that --help lists"),
    "flag-is-switch": ("a switch takes no value", "without ="),
    "flag-without-value": "no value after it",
    "flag-twice": ("given twice", "once"),
    "flag-and-variable": (
        "the command line makes {name} {now}, the environment says {before}",
        "one of them",
    ),
    "nemo-local-nodes": (
        "{ENV:=dsw} is one machine, not {nodes}",
        "1, or {ENV:=slurm} (or run_mcore_llama3_1.sh with ENV dlc)",
    ),
    "nemo-tokenizer-needed": ("it is needed: the tokenizer comes from there", "a folder, or a name on the hub"),
    "nemo-weights-needed": (
        "finetuning needs weights to start from",
        "a checkpoint, or a folder of safetensors",
    ),
    "nemo-size-unknown": "unknown model",
    "nemo-size-unknown-nearest": "unknown model; nearest: {nearest}",
    "nemo-size-llama3": "this is Llama 3, not 3.1: auto takes its architecture, without RoPE scaling, from a "
    "checkpoint",
    "nemo-size-not-told": ("neither {model} nor a config.json tells it", "a name that --list shows"),
    "nemo-offload-weights": (
        "Transformer Engine does not move weights any more: its switch has no effect",
        "--optim_cpu_offloading, a larger {TP} or {PP}, or {AC}",
    ),
    "nemo-offload-and-recompute": ("not together with {AC}", "one of them"),
    "nemo-offload-nothing": (
        "nothing to move: of activations and weights, neither is chosen",
        "with --cpu_offloading_activations",
    ),
    "nemo-offload-layers": ("--cpu_offloading needs it", "1 to the number of layers - 1"),
    "nemo-data-needed": ("it is needed", "the folder of the training data"),
    "nemo-data-missing": (
        "neither training.jsonl nor .bin and .idx in {folder}",
        "a folder with one of them",
    ),
    "nemo-data-file": "--data-prefix: no file {wanted}, nor one of that name with another suffix",
    "nemo-data-files": "--data-prefix: several files for {wanted}: {found}",
    "nemo-tokenizer-flag": "--tokenizer-library {library} needs {flag}",
    "nemo-epoch-too-short": (
        "not given, and one epoch is less than a step: {arithmetic}",
        "a smaller {GLOBAL_BATCH_SIZE}",
    ),
    "nemo-wandb-no-key": (
        "no key: nothing would be logged",
        "with WANDB_API_KEY set, or WANDB_MODE=offline, or --wandb_token",
    ),
    "nemo-two-sizes": ("they name two models: {sizes}", "one model"),
    "hub-nowhere": "no such folder with a tokenizer, and not a name on the hub",
    "hub-not-cached": "not in the hub's cache, and a dry run downloads nothing",
    "hub-unreachable": "{name} is not here, and {host} cannot be reached: no network?",
    "hub-fails": "cannot be downloaded: {kind}: {error}",
    "hub-without-tokenizer": "has no tokenizer on the hub: {folder}",
    "expect-tokenizer-or-hub": "a folder with a tokenizer, or a name that the hub knows",
    "nemo-idle-local": "{name} does nothing under {ENV:=dsw}",
    "nemo-idle-recompute": "{name} does nothing without {AC:=full}",
    "nemo-idle-offload": "{name} does nothing without --cpu_offloading",
    "nemo-idle-optimizer": "{name} does nothing without --optim_cpu_offloading",
    "nemo-idle-wandb": "{name} does nothing without --wandb",
    "nemo-all-gpus": "--num_gpus is not given: {gpus:GPU of this machine is used|GPUs of this machine are used}",
    "nemo-no-container": "no container: srun has no --container-image (pyxis is not installed)",
    "nemo-start-folder": "--nemo_model is not given: the weights in {folder} are the start",
    "nemo-size-told": "--model_size is not given: {name} is {size}",
    "nemo-one-epoch": "--max_steps is not given: one epoch = {arithmetic}",
    "epoch-rows": "{count:conversation|conversations} / {batch} = {steps:step|steps}",
    "epoch-labels": "{count} tokens and labels / ({batch} x 2 x {length}) = {steps:step|steps}",
    "epoch-tokens": "{count:token|tokens} / ({batch} x {length}) = {steps:step|steps}",
    "hub-folder-here": "the folder {folder} here is taken for {name}",
    "hub-checkpoint": "the tokenizer in {folder} is taken for that of {name}",
    "hub-cache": "the tokenizer of {name} is taken from the hub's cache: {folder}",
    "hub-downloaded": "the tokenizer of {name} was downloaded to {folder}",
}
"""The CLIs with the flags of NeMo's tutorials."""

DATA: dict[str, str] = {
    "download-there": "there already: {files}; --overwrite replaces them",
    "download-hub": "{repository} cannot be read from the hub: {error}; --input takes a local copy",
    "download-unreadable": "cannot read {source}: {error}",
    "download-columns": "no column {missing}; there are: {found}",
    "download-no-file": "--input: {source} is not, and does not hold, a file that ends in {suffixes}",
    "download-several-kinds": "--input: {source} holds files of several kinds; give one of them",
}
"""Data before training."""

TEXTS: dict[str, str | tuple[str, str]] = {
    **GENERAL,
    **VALUES,
    **PROBLEMS,
    **CLUSTER,
    **NOTES,
    **WARNINGS,
    **PLAN,
    **NEMO,
    **DATA,
}
