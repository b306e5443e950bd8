"""Nothing in src loads or runs foreign code, and no error is swallowed: an AST gate."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"

BANNED_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BANNED_CALLS = {
    "eval": "runs text as code",
    "exec": "runs text as code",
    "torch.load": "unpickles",
    "torch.save": "pickles",
    "torch.jit.load": "loads code",
    "torch.hub.load": "loads code",
    "torch.package.PackageImporter": "loads code",
    "torch.classes.load_library": "loads code",
    "torch.ops.load_library": "loads code",
    "torch.distributed.all_gather_object": "pickles",
    "torch.distributed.gather_object": "pickles",
    "torch.distributed.scatter_object_list": "pickles",
    "torch.distributed.broadcast_object_list": "pickles",
    "torch.distributed.checkpoint.FileSystemReader": "unpickles",
    "torch.distributed.checkpoint.FileSystemWriter": "pickles",
    "transformers.pipeline": "loads whatever a folder names",
    "tempfile.mktemp": "names a file that somebody else may take",
    "shutil.unpack_archive": "writes where the archive says",
    "pandas.read_pickle": "unpickles",
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "yaml.unsafe_load": "constructs any object",
    "yaml.unsafe_load_all": "constructs any object",
    "yaml.full_load": "constructs more than plain values",
    "yaml.full_load_all": "constructs more than plain values",
}
# keyword -> the only literal it may have
LITERAL_KEYWORDS = {"trust_remote_code": False, "allow_pickle": False, "shell": False, "local_files_only": True}
# the default of some classes is to ask the user at the terminal, and that of all is to ask the hub
LOADS_A_MODEL = re.compile(r"(^|\.)\w+\.from_pretrained$")
NOT_OF_TRANSFORMERS = {"peft.PeftModel.from_pretrained"}
"""takes no such keyword; given a folder that whet wrote"""
SERVERS = ("vllm.LLM", "GuardedServe")
UNPACKS = {"extractall"}
BROAD = {"Exception", "BaseException"}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name it stands for (`np` -> `numpy`, `run` -> `os.system`)."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(
                {(a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0]) for a in node.names}
            )
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names})
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`np.load` -> `numpy.load`; "" for anything but names and attributes."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _import_faults(node: ast.AST) -> list[str]:
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.module:
        modules = [node.module]
    return [f"import {module}" for module in modules if module.split(".")[0] in BANNED_MODULES]


def _call_faults(node: ast.Call, names: dict[str, str], safe_loaders: set[str]) -> list[str]:
    name = dotted(node.func, names)
    found = [f"{name}: {BANNED_CALLS[name]}"] if name in BANNED_CALLS else []
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    found += [
        f"{key} must be the literal {LITERAL_KEYWORDS[key]}" for key in keywords if not _is_allowed(key, keywords[key])
    ]
    if name in {"yaml.load", "yaml.load_all"}:
        loader = keywords.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        if loader is None or dotted(loader, names) not in safe_loaders:
            found.append(f"{name} without a Safe loader")
    if LOADS_A_MODEL.search(name) and name not in NOT_OF_TRANSFORMERS:
        found += [f"{name} without {key}" for key in ("trust_remote_code", "local_files_only") if key not in keywords]
    if name in SERVERS and "trust_remote_code" not in keywords:
        found.append(f"{name} without trust_remote_code=False")
    if isinstance(node.func, ast.Attribute) and node.func.attr in UNPACKS:
        found.append(f"{node.func.attr} of an archive, which writes where the archive says")
    if name == "contextlib.suppress" and any(dotted(argument, names) in BROAD for argument in node.args):
        found.append("suppresses every exception")
    return found


def _is_allowed(key: object, value: ast.AST) -> bool:
    if key not in LITERAL_KEYWORDS:
        return True
    return isinstance(value, ast.Constant) and value.value is LITERAL_KEYWORDS[key]


def _handler_faults(node: ast.ExceptHandler, names: dict[str, str]) -> list[str]:
    types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    is_broad = any(kind is None or dotted(kind, names) in BROAD for kind in types)
    # the last statement, so that no branch of the handler can end without raising
    return ["catches every exception and goes on"] if is_broad and not isinstance(node.body[-1], ast.Raise) else []


def faults(source: str) -> list[str]:
    """`line: what is wrong` for everything in `source` that this file bans."""
    tree = ast.parse(source)
    names = aliases(tree)
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(dotted(base, names) in safe_loaders for base in node.bases):
            safe_loaders.add(node.name)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            texts = _import_faults(node)
        elif isinstance(node, ast.Call):
            texts = _call_faults(node, names, safe_loaders)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            texts = [
                f"{k.value} must be False"
                for k, v in pairs
                if isinstance(k, ast.Constant) and not _is_allowed(k.value, v)
            ]
        elif isinstance(node, ast.ExceptHandler):
            texts = _handler_faults(node, names)
        else:
            continue
        found += [f"{node.lineno}: {text}" for text in texts]
    return found


def test_src_holds_no_banned_call():
    found = [
        f"{path.relative_to(SRC.parent)}:{fault}"
        for path in sorted(SRC.rglob("*.py"))
        for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import joblib.externals",
        "from dill import loads",
        "import shelve as s",
        "from marshal import load",
        "import torch\ntorch.load(p)",
        "import torch as t\nt.load(p, weights_only=True)",
        "from torch import load as read\nread(p)",
        "import torch\ntorch.save(x, p)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import numpy as np\nnp.load(p, allow_pickle=flag)",
        "eval(text)",
        "exec(text)",
        "import os\nos.system(c)",
        "from os import system\nsystem(c)",
        "import subprocess\nsubprocess.run(c, shell=True)",
        "import subprocess\nsubprocess.run(c, shell=flag)",
        "import yaml\nyaml.load(t)",
        "import yaml\nyaml.load(t, Loader=yaml.Loader)",
        "from yaml import load\nload(t)",
        "import yaml\nclass L(yaml.Loader): pass\nyaml.load(t, Loader=L)",
        "import yaml\nyaml.unsafe_load(t)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=settings.trust)",
        "f(trust_remote_code=None)",
        "options = {'trust_remote_code': True}",
        "from transformers import AutoConfig\nAutoConfig.from_pretrained(p, local_files_only=True)",
        "import transformers\ntransformers.AutoTokenizer.from_pretrained(p, local_files_only=True)",
        "from transformers import LlamaForCausalLM as L\nL.from_pretrained(p, local_files_only=True)",
        "from transformers import AutoConfig\nAutoConfig.from_pretrained(p, trust_remote_code=False)",
        "from transformers import AutoConfig as C\nC.from_pretrained(p, trust_remote_code=False, local_files_only=x)",
        "from transformers import pipeline\npipeline('text-generation', model=p)",
        "from vllm import LLM\nLLM(model=p)",
        "archive.extractall(p)",
        "import shutil\nshutil.unpack_archive(a, p)",
        "import tempfile\ntempfile.mktemp()",
        "import torch.distributed as dist\ndist.all_gather_object(a, b)",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    log()",
        "try:\n    f()\nexcept (ValueError, BaseException) as e:\n    log(e)",
        "try:\n    f()\nexcept Exception:\n    if strict:\n        raise",
        "from contextlib import suppress\nwith suppress(Exception):\n    f()",
    ],
)
def test_each_banned_form_is_seen(source):
    assert len(faults(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "import re\nre.compile(p)",
        "import json\njson.load(f)",
        "from safetensors.torch import load_file, save_file\nload_file(p)\nsave_file(t, p)",
        "import numpy as np\nnp.load(p, allow_pickle=False)",
        "import subprocess\nsubprocess.run(c, shell=False)",
        "import yaml\nyaml.safe_load(t)\nyaml.load(t, Loader=yaml.CSafeLoader)\nyaml.load(t, yaml.SafeLoader)",
        "import yaml\nclass L(yaml.SafeLoader): pass\nyaml.load(t, Loader=L)",
        "from transformers import AutoConfig as C\n"
        "C.from_pretrained(p, trust_remote_code=False, local_files_only=True)",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept Exception as e:\n    clean()\n    raise",
        "try:\n    f()\nexcept BaseException as e:\n    raise RuntimeError('x') from e",
    ],
)
def test_allowed_forms_pass(source):
    assert faults(source) == []
