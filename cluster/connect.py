"""The Ray cluster that a run is placed on, and what is said where there is none to be had."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

# Read when Ray is imported. A worker that dies is told of by the controller, with its role, rank
# and step; the raylet's word on it, which has none of them, would come between lines of figures.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"A worker died or was killed")

import grpc  # type: ignore[import-untyped]
import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lvtrain import __version__
from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.local import start
from lvtrain.cluster.sigterm import sigterm_blocked
from lvtrain.errors import UserError

ANSWER = 10.0
"""Seconds within which a cluster that is there answers."""
NODES_ANSWER = 20.0
"""Seconds within which each of its nodes starts a Python that answers."""

# Ray tries for minutes to reach what is not there, and for 20 s with a token that is not right, so
# the cluster is asked first: whether it is one, and whether it takes our token.
_HEALTH = "/grpc.health.v1.Health/Check"
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
# Not where it would want certificates, or a token that Kubernetes keeps.
_OTHERWISE = ("RAY_USE_TLS", "RAY_ENABLE_K8S_TOKEN_AUTH")
_TOKEN = (
    "the cluster wants a token, and there is none here or another one: set RAY_AUTH_MODE=token, "
    "and the cluster's token as RAY_AUTH_TOKEN or in ~/.ray/auth_token"
)


@contextmanager
def connected(cluster: ClusterConfig, flag: str = "--address") -> Iterator[None]:
    """Be a driver of the Ray cluster that is asked for, or of one that is started for the time.

    A process that is one already stays one. Raises UserError, which names the flag of its address,
    where the cluster cannot be had.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(cluster)
    said = f"RAY_ADDRESS={address}" if cluster.address == "auto" else f"{flag} {address}"
    # What Ray says at this level (that tokens are in use, where its dashboard is) asks nothing of
    # anyone.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address == "local":
            start()
        else:
            _join(address, said)
        yield
    except SystemError as error:
        # What a signal's handler raises while Ray waits comes out of it as the cause of this.
        cause = error.__cause__
        if cause is None or isinstance(cause, Exception):
            raise
        raise cause from None
    finally:
        ray.shutdown()


def joins(cluster: ClusterConfig) -> bool:
    """Whether the cluster that is asked for is there, or should be: else one is started."""
    return ray.is_initialized() or _address(cluster) != "local"


def _address(cluster: ClusterConfig) -> str:
    if cluster.address != "auto":
        return cluster.address
    return os.environ.get("RAY_ADDRESS") or "local"


def _join(address: str, said: str) -> None:
    """Be a driver of a cluster that is running."""
    if address != "auto" and not re.fullmatch(r"(\[[\da-fA-F:]+\]|[\w.-]+):\d{1,5}", address):
        raise UserError(
            f"{said}: expected auto, local, or the HOST:PORT that `ray start --head` prints"
        )
    if address != "auto":
        _ask(address, said)
    try:
        with sigterm_blocked():
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except AuthenticationError:
        raise UserError(f"{said}: {_TOKEN}") from None
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UserError(f"{said}: {_cause(error)}") from error
    _check_nodes()


def _ask(address: str, said: str) -> None:
    """Raise UserError where no cluster is at `address`, or one that wants another token."""
    if any(os.environ.get(name, "0") not in ("", "0") for name in _OTHERWISE):
        return
    token = _token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    # No proxy stands between the nodes of a cluster.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_HEALTH)(b"", timeout=ANSWER)
        except grpc.RpcError:
            raise UserError(
                f"{said}: no Ray cluster answers there (`ray start --head` starts one and prints "
                "its address)"
            ) from None
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=ANSWER, metadata=metadata)
        except grpc.RpcError as error:
            # Any other answer is left to Ray.
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise UserError(f"{said}: {_TOKEN}") from None


def _check_nodes() -> None:
    """Raise UserError for a node whose environment is not this one: workers would die of it, or
    compute something else."""
    ask = ray.remote(num_cpus=0)(versions)
    asked = {}
    for node in ray.nodes():
        # A node for nothing but the cluster's own services runs no workers.
        if node["Alive"] and node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = ask.options(scheduling_strategy=there).remote()
    ours = versions()
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=NODES_ANSWER)
    for address, reference in asked.items():
        try:
            theirs = ray.get(reference, timeout=0)
        except GetTimeoutError:
            raise UserError(f"node {address}: no answer within {NODES_ANSWER:g} s") from None
        except RayError:
            raise UserError(
                f"node {address}: its Python cannot import lvtrain: install it on every node, or "
                "submit the checkout: `ray job submit --working-dir . -- …`"
            ) from None
        for package, version in ours.items():
            if theirs[package] != version:
                raise UserError(
                    f"node {address}: it has {package} {theirs[package]}, the driver {version}: "
                    "expected the same versions"
                )


def versions() -> dict[str, str]:
    """The versions, in this process's environment, of what a run's numbers depend on."""
    found = {"lvtrain": __version__}
    for package in ("torch", "deepspeed"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _token() -> str:
    """The token that Ray would send, from where it is documented to look for one."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    try:
        return path.expanduser().read_text().strip()
    except OSError:
        return ""


def _cause(error: BaseException) -> str:
    """What Ray says, in a line; of two versions, which is which."""
    said = str(error)
    versions = re.findall(r"(Ray|Python): (\S+)", said)
    if "Version mismatch" in said and len(versions) == 4:
        there, here = (
            " and ".join(" ".join(version) for version in pair)
            for pair in (versions[:2], versions[2:])
        )
        return f"the cluster has {there}, this environment {here}: expected the same versions"
    return " ".join(said.split())
