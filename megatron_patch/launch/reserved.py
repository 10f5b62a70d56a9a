"""Flags of Megatron's parser that MP_MEGATRON_ARGS may not give: the plan decides them."""

from __future__ import annotations

FIXED = frozenset(
    """
    --async-save --encoder-num-layers --encoder-seq-length --exit-on-missing-checkpoint --lr-decay-samples
    --lr-warmup-fraction --lr-warmup-samples --make-vocab-size-divisible-by --mock-data --no-save-optim
    --no-save-rng --rampup-batch-size --skip-train --test-data-path --train-samples --use-checkpoint-args
    --vocab-size
    """.split()  # noqa: SIM905
)
"""Flags that no plan gives and that would turn a plan into something else."""

EMITTED = frozenset(
    """
    --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split --adam-beta1 --adam-beta2 --adam-eps
    --allow-unfused-attention --attention-backend --attention-dropout --background-save --bf16
    --calculate-per-token-loss --ckpt-format --ckpt-step --clip-grad --context-parallel-size --cpu-offloading-num-layers
    --cross-entropy-fusion-impl --cross-entropy-loss-fusion --data-cache-path --data-path
    --decoder-first-pipeline-num-layers --decoder-last-pipeline-num-layers --device --disable-bias-linear
    --dist-ckpt-optim-fully-reshardable --distributed-backend --distributed-timeout-minutes --eval-interval --eval-iters
    --exp-avg-dtype --exp-avg-sq-dtype --export-hf --ffn-hidden-size --fine-grained-activation-offloading --finetune
    --fp16 --fp8-amax-compute-algo --fp8-amax-history-len --fp8-format --fp8-param-gather --fp8-recipe
    --global-batch-size --grad-reduce-in-bf16 --group-query-attention --hf-checkpoint --hidden-dropout --hidden-size
    --init-method-std --initial-loss-scale --kv-channels --load --load-main-params-from-ckpt --log-interval --lr
    --lr-decay-iters --lr-decay-style --lr-warmup-iters --main-grads-dtype --manual-gc --manual-gc-interval
    --max-position-embeddings --micro-batch-size --min-lr --no-check-for-nan-in-loss-and-grad
    --no-create-attention-mask-in-dataloader --no-gradient-accumulation-fusion --no-load-optim --no-load-rng
    --no-masked-softmax-fusion --no-persist-layer-norm --no-rope-fusion --norm-epsilon --normalization
    --num-attention-heads --num-layers --num-query-groups --num-virtual-stages-per-pipeline-rank --num-workers
    --offload-modules --optimizer --optimizer-cpu-offload --optimizer-offload-fraction --output-dir
    --overlap-cpu-optimizer-d2h-h2d --overlap-grad-reduce --overlap-param-gather --override-opt-param-scheduler
    --padded-vocab-size --pipeline-model-parallel-layout --pipeline-model-parallel-size --position-embedding-type
    --recompute-granularity --recompute-method --recompute-num-layers --rope-scaling-factor --rotary-base --save
    --save-interval --seed --seq-length --sequence-parallel --sft-average --sft-data --sft-loss --sft-max-lost
    --sft-overlong --sft-packing --spec --split --swiglu --tensor-model-parallel-size --tensorboard-dir
    --tokenizer-model --tokenizer-type --tp-comm-overlap --tp-comm-overlap-cfg --tp-comm-overlap-rs-dgrad
    --train-data-path --train-iters --transformer-impl --untie-embeddings-and-output-weights --use-cpu-initialization
    --use-distributed-optimizer --use-precision-aware-optimizer --use-rope-scaling --valid-data-path --wandb-entity
    --wandb-exp-name --wandb-project --wandb-save-dir --weight-decay --z-loss
    """.split()  # noqa: SIM905
)
"""Every flag that some plan gives (`argv.py`); a test holds it against the golden files."""
