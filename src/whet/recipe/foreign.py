"""Names from other tools and what whet calls them, or a sentence why there is no such key.

Tables: Hugging Face TrainingArguments (names of versions 4 and 5), TRL SFTConfig, PEFT LoraConfig, and the
YAML of the lora-ns repository (sections peft, trainer, dataset, training, ...). Keys in backticks are whet's;
a test asserts that they exist.
"""

from __future__ import annotations

from whet.recipe.problems import Path

RENAMED: dict[str, str] = {
    # Hugging Face TrainingArguments
    "adam_epsilon": "optim.eps",
    "data_seed": "seed",
    "early_stopping_patience": "train.patience",
    "early_stopping_threshold": "train.min_improvement",
    "eval_steps": "train.eval_every",
    "greater_is_better": "train.best_direction",
    "hub_revision": "model.revision",
    "learning_rate": "optim.lr",
    "load_best_model_at_end": "train.final",
    "lr_scheduler_type": "optim.schedule",
    "max_seq_length": "data.max_length",
    "metric_for_best_model": "train.best_metric",
    "model_name_or_path": "model.id",
    "no_cuda": "train.device",
    "num_epochs": "train.epochs",
    "num_train_epochs": "train.epochs",
    "output_dir": "output",
    "per_device_eval_batch_size": "evaluate.0.batch_rows",
    "per_gpu_eval_batch_size": "evaluate.0.batch_rows",
    "report_to": "tracking",
    "wandb.online": "tracked_as.online",
    "wandb.project": "tracked_as.project",
    "wandb.tags": "tracked_as.tags",
    "wandb_name": "tracked_as.name",
    "wandb_project": "tracked_as.project",
    "run_name": "name",
    "save_steps": "train.save_every",
    "save_total_limit": "train.keep",
    "torch_dtype": "model.dtype",
    "use_cpu": "train.device",
    "warmup_ratio": "optim.warmup",
    # TRL, Axolotl, LLaMA-Factory
    "cutoff_len": "data.max_length",
    "dataset_config": "data.train.0.config",
    "dataset_name": "data.train.0.source",
    "dataset_streaming": "data.train.0.stream",
    "dataset_text_field": "data.train.0.fields",
    "dataset_train_split": "data.train.0.split",
    "early_stopping_steps": "train.patience",
    "interleave_probs": "data.train.0.weight",
    "lora_rank": "adapter.rank",
    "lora_target": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "loraplus_lr_ratio": "adapter.lr_ratio",
    "max_samples": "data.train.0.rows",
    "micro_batch_size": "batch.micro_size",
    "peft_init_lora_weights": "adapter.init",
    "peft_use_rslora": "adapter.rslora",
    "pissa_init": "adapter.init",
    "probabilities": "data.train.0.weight",
    "sequence_len": "data.max_length",
    "streaming": "data.train.0.stream",
    # PEFT LoraConfig
    "base_model_name_or_path": "model.id",
    "init_lora_weights": "adapter.init",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_r": "adapter.rank",
    "peft_method": "adapter.method",
    "peft_type": "adapter.method",
    "r": "adapter.rank",
    "rank_pattern": "adapter.ranks",
    "target_modules": "adapter.targets",
    "use_rslora": "adapter.rslora",
    # common short forms
    "base_model": "model.id",
    "clip_grad_norm": "optim.max_grad_norm",
    "gradient_clipping": "optim.max_grad_norm",
    "load_best": "train.final",
    "lr_scheduler": "optim.schedule",
    "max_new_tokens": "evaluate.0.max_new_tokens",
    "system_prompt": "data.train.0.system",
    # lora-ns
    "balance_lambda": "callbacks.0.balance",
    "clear_momentum": "callbacks.0.second_moments",
    "cooldown_steps": "callbacks.0.cooldown_steps",
    "dataset.eval_split": "data.validation.0.split",
    "dataset.name": "data.train.0.source",
    "dataset.prompt_template": "data.prompt",
    "dataset.subset": "data.train.0.config",
    "dataset.train_split": "data.train.0.split",
    "generation.batch_size": "evaluate.0.batch_rows",
    "model.name_or_path": "model.id",
    "peft.method": "adapter.method",
    "refactor_every": "callbacks.0.every",
    "refactor_mode": "callbacks.0.mode",
    "trainer.name": "callbacks.0.name",
    "trainer.warmup_steps": "callbacks.0.warmup_steps",
    "training.global_batch_size": "batch.global_size",
}

SECTIONS: dict[str, str] = {
    "accelerate": "",
    "dataset": "data",
    "generation": "evaluate",
    "loraga": "adapter",
    "lora": "adapter",
    "peft": "adapter",
    "sft": "data",
    "trainer": "train and callbacks",
    "training": "optim, batch and train",
    "training_args": "optim, batch and train",
    "wandb": "tracking and tracked_as",
}
"""Sections of other tools -> the sections that hold their keys here."""

_ACCUMULATION = (
    "`batch.global_size` says how many samples make a step over all GPUs (micro-batch x accumulation x GPUs); "
    "accumulation is derived from it"
)
_PRECISION = "`model.dtype` is auto (bfloat16 where the hardware multiplies it fast), float32 or bfloat16"
_FLOAT16 = "float16 needs loss scaling and is not offered; " + _PRECISION
_PACKING = (
    "rows are always laid end to end without padding, and no document sees another; `batch.unit` packs counts packs of "
    "`data.max_length` tokens"
)
_STARTING_POINT = "`adapter.init` says where the factors start; the starts have no settings of their own"
_LORA_ONLY = "adapters are LoRA and DoRA (`adapter.method`), which other tools load; this variant is not offered"
_DORA = "`adapter.method` dora trains the length of the weight columns too"
_SPECTRAL = (
    "the callback `callbacks.0.name` spectral needs no damping, and Adam's first moments always follow the factors"
)
_QUANTISED = "`model.quantize` nf4 or int8 keeps the frozen base in 4 or 8 bits; it has no settings of its own"
_WHOLE_LAYERS = (
    "`adapter.also_train` trains norm weights or the input embedding along; `adapter.method` none trains all weights"
)
_TOKEN = "a token never stands in a recipe: set HF_TOKEN, or log in with the hub's own command"  # noqa: S105
_PUSH = "nothing leaves the machine while training; a finished run is published with its own command"
_LAUNCH = "processes, devices and sharding belong to the launcher (torchrun), not to the recipe"
_LOGGING = "every step is a line of metrics.jsonl; `tracking` adds trackers"
_LOADER = (
    "rows are tokenized once, in batches and on all threads, into a token cache and read from there: there is nothing "
    "to prefetch and no worker to wait for"
)
_COLUMN_NAMES = (
    "rows are read by the names that their format has; `data.train.0.fields` says where they are called otherwise"
)
_MIXING = (
    "`data.train.0.weight` (of every source) mixes sources; a source's rows are all used once before one comes again"
)
_WHEN = "set a number of steps in `train.eval_every` or `train.save_every`; without it, a tenth of the run"
_CODE = "code from the hub is never run"
_PROMPT_LOSS = "the loss always covers the answer and its end, never the prompt"
_COLUMNS = (
    "`data.train.0.format` names the shape of the rows (auto reads it off them), `data.train.0.fields` their names"
)
_EVALUATION = "base and tuned generate answers for the rows in `evaluate`, greedily; scores come from these"
_RESUME = "the same command continues an interrupted run by itself"
_LOSS = "the loss is the mean cross-entropy over the taught tokens of a step, without smoothing or penalties"
_SPEED = "kernels and memory savings are chosen for the hardware; there is no key for it"

_ANSWERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Hugging Face TrainingArguments
    (_ACCUMULATION, ("gradient_accumulation_steps", "train_batch_size", "batch_size", "auto_find_batch_size")),
    (
        "`batch.micro_size` is the samples per forward pass and GPU; " + _ACCUMULATION,
        ("per_device_train_batch_size", "per_gpu_train_batch_size"),
    ),
    ("write the number of steps into `optim.warmup` (below 1 it is a share of the run)", ("warmup_steps",)),
    ("the two rates stand together: `optim.betas`, e.g. [0.9, 0.999]", ("adam_beta1", "adam_beta2")),
    (_PRECISION, ("bf16", "bf16_full_eval", "tf32", "dtype")),
    (_FLOAT16, ("fp16", "fp16_full_eval", "fp16_opt_level", "half_precision_backend")),
    (
        "the optimizer is AdamW: `optim.name` adamw or adamw_8bit",
        ("training.optim", "optim_args", "optim_target_modules", "optimizer_type", "adafactor"),
    ),
    ("the schedule falls to zero at the last step; see `optim.schedule`", ("lr_scheduler_kwargs",)),
    (
        _SPEED,
        (
            *("gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing"),
            *("activation_checkpointing_kwargs", "activation_offloading", "torch_compile", "torch_compile_backend"),
            *("torch_compile_mode", "use_liger_kernel", "liger_kernel_config", "use_cache", "torch_empty_cache_steps"),
            *("attn_implementation", "use_flash_attention_2", "flash_attention", "flash_attn", "sdp_attention"),
            *("xformers_attention", "enable_liger_kernel", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"),
            *("low_cpu_mem_usage", "bf16_full_train", "use_unsloth", "disable_gradient_checkpointing"),
        ),
    ),
    (
        _WHEN,
        (
            *("evaluation_strategy", "eval_strategy", "save_strategy", "eval_delay", "eval_on_start"),
            *("total_eval_times", "evals_per_epoch", "saves_per_epoch"),
        ),
    ),
    (
        _LOGGING,
        (
            *("logging_strategy", "logging_steps", "logging_first_step", "logging_dir", "logging_nan_inf_filter"),
            *("log_on_each_node", "log_level", "log_level_replica", "disable_tqdm", "include_num_input_tokens_seen"),
            *("debug", "skip_memory_metrics"),
            *("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
            *("plot_loss", "include_tokens_per_second", "profiler_steps"),
        ),
    ),
    (
        _LOADER,
        (
            *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
            *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"),
            *("preprocessing_num_workers", "dataset_num_proc", "dataset_kwargs", "remove_unused_columns"),
            *("length_column_name", "train_sampling_strategy", "group_by_length", "shuffle_dataset"),
            *("dataset_prepared_path", "dataset_processes", "overwrite_cache", "tokenized_path", "buffer_size"),
            *("streaming_multipack_buffer_size", "dataset_keep_in_memory", "shuffle_merged_datasets", "ddp_prefetch"),
        ),
    ),
    ("the command line says what is done", ("do_train",)),
    ("every sample is used once per epoch; a short last step keeps its rows", ("dataloader_drop_last",)),
    (
        _LAUNCH,
        (
            *("local_rank", "fsdp", "fsdp_config", "deepspeed", "accelerator_config", "parallelism_config"),
            *("ddp_backend", "ddp_timeout", "ddp_find_unused_parameters", "ddp_bucket_cap_mb"),
            *("ddp_broadcast_buffers", "ddp_static_graph", "device_map", "num_processes", "mixed_precision"),
            *("fsdp_version", "num_machines", "gpu_ids", "distributed_type"),
            "save_on_each_node",
        ),
    ),
    (_PUSH, ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push")),
    (_TOKEN, ("hub_token", "token", "hf_token", "use_auth_token")),
    (_CODE, ("trust_remote_code",)),
    (
        _RESUME,
        (
            *("resume_from_checkpoint", "overwrite_output_dir", "ignore_data_skip", "save_only_model"),
            *("restore_callback_states_from_checkpoint", "enable_jit_checkpoint"),
        ),
    ),
    (
        _LOSS,
        (
            *("label_smoothing_factor", "neftune_noise_alpha", "loss_type", "router_aux_loss_coef", "label_names"),
            "average_tokens_across_devices",
        ),
    ),
    (
        _EVALUATION,
        (
            *("do_eval", "do_predict", "prediction_loss_only", "eval_accumulation_steps"),
            *("eval_do_concat_batches", "include_for_metrics", "batch_eval_metrics", "eval_packing"),
            *("temperature", "top_p", "top_k", "do_sample", "eval_use_gather_object"),
        ),
    ),
    ("runs on one machine type are repeatable as they are", ("full_determinism",)),
    # TRL SFTConfig
    (
        _PACKING,
        (
            *("packing", "packing_strategy", "padding_free", "pad_to_multiple_of", "pad_token", "pad_to_sequence_len"),
            *("sample_packing", "eval_sample_packing", "neat_packing", "sample_packing_group_size"),
        ),
    ),
    (
        _PROMPT_LOSS,
        (
            *("completion_only_loss", "assistant_only_loss", "train_on_inputs", "response_template", "train_on_prompt"),
            *("mask_history", "roles_to_train", "train_on_eos"),
        ),
    ),
    (_COLUMNS, ("dataset.text_column", "text_column", "label_column", "ds_type")),
    (
        _COLUMN_NAMES,
        (
            *("field_messages", "message_field_role", "message_field_content", "field_instruction", "field_input"),
            *("field_output", "field_system", "message_property_mappings"),
        ),
    ),
    (_MIXING, ("mix_strategy", "interleave_under", "stopping_strategy")),
    (
        "`data.over_length` says what happens to long samples; answers are never cut",
        ("truncation_mode", "excess_length_strategy"),
    ),
    (
        "`data.template` is chat or plain; `data.chat_template` names a family's template where the tokenizer has none",
        ("chat_template_path", "eos_token", "default_system", "chat_template_jinja", "special_tokens"),
    ),
    ("the model is loaded without further arguments; see `model.dtype`", ("model_init_kwargs",)),
    # PEFT LoraConfig
    ("LoRA adds no bias terms", ("bias", "lora_bias")),
    (
        "models are causal language models; there is nothing to choose",
        (
            *("task_type", "num_labels", "inference_mode", "model_type", "tokenizer_type", "lora_task_type"),
            *("is_llama_derived_model", "plugins", "strict", "stage"),
        ),
    ),
    (
        _STARTING_POINT,
        (
            *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "loraga", "pissa_iter"),
            "peft.lora_init_kwargs",
        ),
    ),
    ("exports of an adapter that starts inside the base are always converted to plain LoRA", ("pissa_convert",)),
    (_DORA, ("use_dora", "peft_use_dora")),
    (
        _LORA_ONLY,
        (
            *("use_qalora", "use_bdlora", "qalora_group_size", "peft.variant"),
            *("alpha_pattern", "layer_replication", "fan_in_fan_out", "num_virtual_tokens"),
            *("auto_mapping", "peft_version", "runtime_config", "velora_config", "kasa_config"),
            *("arrow_config", "monteclora_config", "alora_invocation_tokens", "megatron_config", "megatron_core"),
        ),
    ),
    (
        _QUANTISED,
        (
            *("load_in_4bit", "load_in_8bit", "quantization_bit", "quantization_method", "gptq"),
            *("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"),
        ),
    ),
    ("name the modules to adapt in `adapter.targets`", ("exclude_modules", "layers_to_transform", "layers_pattern")),
    (
        _WHOLE_LAYERS,
        (
            *("modules_to_save", "trainable_token_indices", "target_parameters", "ensure_weight_tying"),
            *("lora_modules_to_save", "additional_target"),
        ),
    ),
    # lora-ns
    ("the task follows from the rows; `evaluate` names the held-out ones and `name` the run", ("task_name",)),
    (
        _SPECTRAL,
        (*("preserve_momentum", "damping_eps", "clip_min_sigma"),),
    ),
    ("held-out rows stand in `evaluate.0.source`", ("dataset.test_split", "test_split")),
    (
        "trackers are named in `tracking`; metrics.jsonl is always written",
        (
            *("wandb.run_name_suffix", "use_wandb", "wandb_entity", "wandb_watch", "wandb_log_model", "wandb_run_id"),
            *("wandb_mode",),
        ),
    ),
)

EXPLAINED: dict[str, str] = {name: sentence for sentence, names in _ANSWERS for name in names}

CHANGES_RESULT: frozenset[str] = frozenset(
    {
        *("label_smoothing_factor", "neftune_noise_alpha", "loss_type", "dataloader_drop_last", "lr_scheduler_kwargs"),
        *("adafactor", "optim_args", "optim_target_modules", "push_to_hub", "hub_model_id"),
        *("bias", "lora_bias", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("peft.lora_init_kwargs", "use_dora", "peft_use_dora", "use_qalora", "use_bdlora", "peft.variant"),
        *("alpha_pattern", "layer_replication", "load_in_4bit", "load_in_8bit", "quantization_bit"),
        *("num_virtual_tokens", "alora_invocation_tokens", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("modules_to_save", "lora_modules_to_save", "trainable_token_indices", "target_parameters"),
        *("additional_target", "train_on_inputs", "train_on_prompt", "mask_history", "eos_token", "default_system"),
        *("chat_template_path", "chat_template_jinja", "special_tokens", "response_template", "mix_strategy"),
        *("clip_min_sigma", "test_split", "streaming", "field_system", "plugins"),
    }
)
"""Names whose setting, where it asks for something, would change what is trained: an import tells it aloud."""


def foreign_section(path: Path) -> str | None:
    """Answer for a section of another tool (`peft`, `training`), or None."""
    name = _dotted_names(path)
    if name not in SECTIONS:
        return None
    return f": these settings are in {SECTIONS[name]}" if SECTIONS[name] else f": {_LAUNCH}"


def foreign_full_name(path: Path) -> str | None:
    """Answer for a key known by its whole dotted name (`training.optim`), or None."""
    return _answer(_dotted_names(path)) if len(path) > 1 else None


def foreign_name(name: str) -> str | None:
    """Answer for a key known by its own name (`learning_rate`), wherever it stands, or None."""
    return _answer(name)


def _answer(name: str) -> str | None:
    if name in RENAMED:
        return f": here it is {RENAMED[name]}"
    return f": {EXPLAINED[name].replace('`', '')}" if name in EXPLAINED else None


def _dotted_names(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))
