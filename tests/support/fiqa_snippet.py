"""The Python of the FiQA project's README, line for line: loading the adapter, and asking it."""

from __future__ import annotations

BASE = "nvidia/Llama-3.1-Nemotron-Nano-8B-v1"
LOADING = """
from nemo_automodel import NeMoAutoModelForCausalLM
from peft import PeftModel
from transformers import AutoTokenizer

# Load base model
model = NeMoAutoModelForCausalLM.from_pretrained(
    "nvidia/Llama-3.1-Nemotron-Nano-8B-v1",
    torch_dtype=torch.bfloat16,
    device_map="auto"
)

# Load LoRA adapter
model = PeftModel.from_pretrained(model, "./checkpoints/final_model")

# Load tokenizer
tokenizer = AutoTokenizer.from_pretrained("./checkpoints/final_model")
"""
INFERENCE = """
system_prompt = (
    "You are a helpful financial assistant. Provide comprehensive, detailed answers "
    "to financial questions. Include relevant context, examples, and explanations when appropriate."
)

question = "What is the difference between a stock and a bond?"
prompt = f"{system_prompt}\\n\\nQuestion: {question}\\n\\nAnswer:"

inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
outputs = model.generate(**inputs, max_new_tokens=512, temperature=0.7)
response = tokenizer.decode(outputs[0], skip_special_tokens=True)
"""
