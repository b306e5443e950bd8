"""Kubernetes: an indexed Job of one pod per node and the name under which they find each other, as plain data.

NeMo-Run's executor for Kubernetes needs an operator on the cluster and a live connection to print anything; a Job of
batch/v1 runs on every cluster, starts again what was interrupted (exit code 75) and nothing that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from whet.errors import RecipeError
from whet.launch.job import Job, node_command

PORT = 29500
_INDEX = "$(JOB_COMPLETION_INDEX)"
"""filled in by Kubernetes: the number of the pod"""
_INTERRUPTED = 75
_NOT_MENDED = [2, 3, 4, 6, 8, 9]
"""recipe, data, non-finite, hub or token, a gate, out of memory: the same pod would fail the same way"""
_USER = 1000
"""the user of docker/Dockerfile.gpu"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """What belongs to the cluster."""

    namespace: str = "default"
    claim: str
    """persistent volume claim (ReadWriteMany for several nodes) that holds `workdir`"""
    secret: str = "whet"  # noqa: S105 (a name)
    """Secret whose keys are the variables of `env_names`"""
    backoff: int = 3
    """failures without a known cause after which the Job is given up; interruptions do not count"""
    stop_seconds: int = 300
    """between SIGTERM and SIGKILL, for the ranks to save"""


def kubernetes_manifest(job: Job, cluster: Kubernetes) -> str:
    """The manifest for `kubectl apply -f -`."""
    if job.mounts:
        raise RecipeError(
            "hosts' folders are not mounted into pods", where="--mount", mend="put the files under --workdir"
        )
    documents = [_service(job, cluster), _job(job, cluster)] if job.num_nodes > 1 else [_job(job, cluster)]
    return yaml.safe_dump_all(documents, sort_keys=False, width=120)


def _service(job: Job, cluster: Kubernetes) -> dict[str, Any]:
    """Names for pods that are not ready yet: they meet before they are."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job.name, "namespace": cluster.namespace, "labels": _labels(job)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _labels(job),
            "ports": [{"name": "rendezvous", "port": PORT}],
        },
    }


def _job(job: Job, cluster: Kubernetes) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name, "namespace": cluster.namespace, "labels": _labels(job)},
        "spec": {
            "completionMode": "Indexed",
            "completions": job.num_nodes,
            "parallelism": job.num_nodes,
            "backoffLimit": cluster.backoff * job.num_nodes,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {"labels": _labels(job)},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": cluster.stop_seconds,
                    **({"subdomain": job.name} if job.num_nodes > 1 else {}),
                    "automountServiceAccountToken": False,
                    "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "fsGroup": _USER},
                    "containers": [_container(job, cluster)],
                    "volumes": [
                        {"name": "work", "persistentVolumeClaim": {"claimName": cluster.claim}},
                        # NCCL and gloo talk through shared memory, of which a pod has 64 MB otherwise
                        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                    ],
                },
            },
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """The first rule that fits decides; what none names counts against backoffLimit."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {"containerName": "whet", "operator": "In", "values": [_INTERRUPTED]}},
        {"action": "FailJob", "onExitCodes": {"containerName": "whet", "operator": "In", "values": _NOT_MENDED}},
    ]  # fmt: skip


def _container(job: Job, cluster: Kubernetes) -> dict[str, Any]:
    uses_gpus = job.gpus_per_node > 0
    words = node_command(job, node_rank=_INDEX, address=f"{job.name}-0.{job.name}", port=str(PORT))
    gpus = {"resources": {"limits": {"nvidia.com/gpu": job.gpus_per_node}}} if uses_gpus else {}
    return {
        "name": "whet",
        "image": job.image,
        # a setting that happens to look like a variable stays as it was typed
        "command": [word if word == _INDEX else word.replace("$(", "$$(") for word in words],
        "workingDir": job.workdir,
        "env": [
            {"name": "HF_HOME", "value": f"{job.workdir}/.cache/huggingface"},
            {"name": "WHET_CACHE", "value": f"{job.workdir}/.cache/whet"},
            *(_secret(name, cluster) for name in job.env_names),
        ],
        **gpus,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "work", "mountPath": job.workdir},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 (inside the pod)
        ],
    }


def _secret(name: str, cluster: Kubernetes) -> dict[str, Any]:
    """Optional: a model that needs no token runs without the Secret."""
    reference = {"name": cluster.secret, "key": name, "optional": True}
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _labels(job: Job) -> dict[str, str]:
    return {"app.kubernetes.io/name": "whet", "app.kubernetes.io/instance": job.name}
