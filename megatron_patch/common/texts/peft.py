"""Adapters."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "base-other": "not the base of these adapters: they were trained over {base}, whose weights have SHA-256 "
    "{before}..., not {now}...",
    "adapters-other-setting": "adapters with {name} {before}, not {now}",
    "no-adapters": "holds no adapters, there is no {file}",
    "adapters-record": "not the record of adapters ({error})",
    "peft-not-adapter": "not an adapter of PEFT ({error})",
    "peft-type": "peft_type is {found}, not LORA",
    "peft-value": "{name} is {found}, here it can only be {value}",
    "peft-unknown": "{name} is {found}, which is not known here; wanted an adapter without it",
    "peft-base-changed": "init_lora_weights is {found}: PEFT changes the base's weights for it, so that beside "
    "the base as it is the adapter is another model; save it with path_initial_model_for_weight_conversion",
    "peft-rank": "r is {found}, not a whole number >= 1",
    "peft-pattern": "{name} is {found}, not a JSON object of modules and numbers",
    "peft-pattern-whole": "{name}: {key} has {found}, not a whole number >= 1",
    "peft-pattern-real": "{name}: {key} has {found}, not a number > 0",
    "peft-pattern-key": "{name}: {key} is not a regular expression",
    "peft-modules": "adapters on {modules}; possible: {known}",
    "peft-shape": "{tensor}: {found}, wanted {wanted}",
    "peft-foreign": "{tensor}: not of this model's {layers} layers and these targets",
    "peft-other-base": "{config} names {told} as its base, and {base} is given: right if the weights are the same",
    "peft-in-all": "{count:problem|problems} in all",
    "peft-tp": "adapters on {module} with TP {tp}: only up to its {groups} KV heads",
    "peft-other-checkpoint": "a checkpoint of other adapters: {names}",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "base-other": "不是这些适配器的基座模型：它们基于 {base} 训练，其权重的 SHA-256 是 {before}...，而不是 {now}...",
    "adapters-other-setting": "适配器的 {name} 是 {before}，而不是 {now}",
    "no-adapters": "没有适配器：缺少 {file}",
    "adapters-record": "不是适配器的记录（{error}）",
    "peft-not-adapter": "不是 PEFT 适配器（{error}）",
    "peft-type": "peft_type 为 {found}，不是 LORA",
    "peft-value": "{name} 为 {found}，这里只能是 {value}",
    "peft-unknown": "{name} 为 {found}，这里不认识它；需要不带它的适配器",
    "peft-base-changed": "init_lora_weights 为 {found}：PEFT 会为它改动底座的权重，所以配上原样的底座就成了另一个模型；"
    "请用 path_initial_model_for_weight_conversion 保存",
    "peft-rank": "r 为 {found}，不是不小于 1 的整数",
    "peft-pattern": "{name} 为 {found}，不是由模块和数值组成的 JSON 对象",
    "peft-pattern-whole": "{name}：{key} 的值 {found} 不是不小于 1 的整数",
    "peft-pattern-real": "{name}：{key} 的值 {found} 不是大于 0 的数",
    "peft-pattern-key": "{name}：{key} 不是正则表达式",
    "peft-modules": "适配器位于 {modules}；可以是：{known}",
    "peft-shape": "{tensor}：{found}，应为 {wanted}",
    "peft-foreign": "{tensor}：不属于这个模型的 {layers} 层和这些目标模块",
    "peft-other-base": "{config} 说它的基座是 {told}，而给出的是 {base}：权重相同时才正确",
    "peft-in-all": "共 {count} 个问题",
    "peft-tp": "TP {tp} 时不能在 {module} 上使用适配器：TP 最多为 KV 头数 {groups}",
    "peft-other-checkpoint": "检查点中是其他适配器：{names}",
}
