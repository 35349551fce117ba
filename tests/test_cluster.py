"""The files in docs/cluster: what hadolint, Kubernetes, KubeRay, Ray and AWS would say to them, and our own command."""

import copy
import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import ROOT

from background_remover.cli import cutout

CLUSTER = ROOT / "docs" / "cluster"
DOCKERFILE = re.sub(r"\\\n\s*", "", (CLUSTER / "Dockerfile").read_text())
JOB = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
LAUNCHER = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
HEAD = JOB["spec"]["rayClusterSpec"]["headGroupSpec"]
WORKERS = JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
TEMPLATES = {
    "submitter": JOB["spec"]["submitterPodTemplate"],
    "head": HEAD["template"],
    **{group["groupName"]: group["template"] for group in WORKERS},
}
RAY_GROUPS = ["head", *(group["groupName"] for group in WORKERS)]
KUBERNETES = ["1.31", kubernetes_validate.latest_version().rpartition(".")[0]]  # from an old one to the newest
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def closed(required: str, **fields: dict) -> dict:
    """The schema of an object that has these fields and no others."""
    return {"type": "object", "required": required.split(), "properties": fields, "additionalProperties": False}


# KubeRay's API, ray.io/v1: the fields that its releases share, and what they and its operator ask of them.
# What is in a pod is Kubernetes' own, and has its own test.
POD = {"type": "object", "required": ["spec"]}
AUTOSCALER = closed("", idleTimeoutSeconds=COUNT, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]})
HEAD_GROUP = closed(
    "rayStartParams template",
    rayStartParams=TEXTS,
    template=POD,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    headService={"type": "object"},
    enableIngress=FLAG,
)
WORKER_GROUP = closed(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName={"type": "string", "minLength": 1},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=TEXTS,
    template=POD,
    scaleStrategy={"type": "object"},
)
RAY_CLUSTER = closed(
    "headGroupSpec rayVersion workerGroupSpecs",
    headGroupSpec=HEAD_GROUP,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP, "minItems": 1},
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    authOptions=closed("mode", mode={"enum": ["token", "disabled"]}),
    headServiceAnnotations=TEXTS,
    suspend=FLAG,
)
RAY_JOB = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    # The names of what KubeRay makes of it are longer: they must not exceed Kubernetes' 63 letters.
    metadata=closed(
        "name",
        name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"},
        namespace=TEXT,
        labels=TEXTS,
        annotations=TEXTS,
    ),
    spec=closed(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        rayClusterSpec=RAY_CLUSTER,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        backoffLimit=COUNT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources=TEXT,
        jobId=TEXT,
        metadata=TEXTS,
        runtimeEnvYAML=TEXT,
        shutdownAfterJobFinishes=FLAG,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        submitterConfig=closed("", backoffLimit=COUNT),
        submitterPodTemplate=POD,
        suspend=FLAG,
        ttlSecondsAfterFinished=COUNT,
    ),
)


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)", quantity).groups()
    return int(number) * UNITS[unit]


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE | re.IGNORECASE)
    return version


def check_pod(template: dict, version: str) -> None:
    """Whether Kubernetes takes the pod, with all its fields known."""
    try:
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        pytest.fail(f"{list(error.path)}: {error.message}")  # what it prints by itself is the whole schema


def container(group: str) -> dict:
    (only,) = TEMPLATES[group]["spec"]["containers"]
    return only


def commands() -> list[str]:
    """Each call of `cutout batch` in these files, those in comments included."""
    launcher = re.findall(r"-- (cutout batch .*)$", (CLUSTER / "cluster.yaml").read_text(), re.MULTILINE)
    assert launcher
    return [JOB["spec"]["entrypoint"], *launcher]


# --- the image ----------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    assert hadolint, "hadolint is missing: requirements-dev.txt has it"
    answer = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, "")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    """What the COPY instructions put into /app, out of what Dockerfile.dockerignore lets through."""
    folder = tmp_path_factory.mktemp("image")
    lines = [line for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == "*"
    let_through = [line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")]
    kept_out = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    unused = set(let_through)
    for copied in instructions("COPY"):
        *sources, target = copied.split()
        if sources[0].startswith("--from="):
            continue
        for source in sources:
            found = [path for path in ROOT.glob(source.rstrip("/")) if not path.name.startswith(".")]
            assert found, f"COPY finds no {source}"
            for path in found:
                by = [pattern for pattern in let_through if fnmatch.fnmatch(path.name, pattern)]
                assert by, path
                unused -= set(by)
                if path.is_dir():
                    shutil.copytree(path, folder / target, ignore=shutil.ignore_patterns(*kept_out))
                else:
                    shutil.copy(path, folder / target)
    assert not unused
    return folder


@pytest.mark.network
@pytest.mark.slow
def test_what_the_image_copies_can_be_installed_and_has_the_command(image_folder, tmp_path):
    (install,) = [line for line in instructions("RUN") if line.endswith("--no-deps .")]
    assert install == "pip install --no-cache-dir --no-deps ."
    packages = tmp_path / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, image_folder]
    subprocess.run(command, check=True, timeout=300)
    where = "import background_remover, briarmbg, utilities; print(background_remover.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert Path(found).is_relative_to(packages)
    help_text = subprocess.run(
        [packages / "bin" / "cutout", "batch", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--address" in help_text


def test_the_image_has_what_kuberay_and_the_launcher_call_in_it():
    (apt,) = [line for line in instructions("RUN") if line.startswith("apt-get")]
    assert {"openssh-client", "rsync", "wget"} <= set(apt.split())
    (pip,) = [line for line in instructions("RUN") if "-r requirements.txt" in line]
    assert {"requirements.txt", "requirements-batch.txt", "boto3", "constraints.txt"} <= set(pip.split())
    ray = re.search(r"^ray\[(.*?)\]", (ROOT / "requirements-batch.txt").read_text(), re.MULTILINE)
    assert {"data", "default"} <= set(ray[1].split(","))


def test_the_image_runs_as_nobody_special_and_keeps_the_weights():
    assert instructions("USER") == ["1000"]
    (volume,) = instructions("VOLUME")
    (environment,) = [dict(setting.split("=") for setting in shlex.split(line)) for line in instructions("ENV")]
    assert environment["HF_HOME"] == volume
    assert environment["HOME"] == "/home/app"
    for group in RAY_GROUPS:
        (mount,) = [mount for mount in container(group)["volumeMounts"] if mount["mountPath"] == volume]
        assert {"name": "HF_HOME", "value": volume} in container(group)["env"]
        assert mount["name"] in [entry["name"] for entry in TEMPLATES[group]["spec"]["volumes"] if "emptyDir" in entry]


def test_all_versions_agree():
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"^FROM python:([\d.]+)-slim$", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == [python]
    assert f'python_version: "{python}"' in (ROOT / "README.md").read_text()
    ray = pinned("ray")
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == ray
    images = {container(group)["image"] for group in TEMPLATES} | {LAUNCHER["docker"]["image"]}
    images.add(re.search(r" -t (\S+) \.$", DOCKERFILE, re.MULTILINE)[1])
    assert images == {f"registry.example.com/background-remover:ray{ray}-py{python}"}
    assert f"'ray[default]=={ray}'" in (CLUSTER / "cluster.yaml").read_text()


# --- the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", commands())
def test_the_command_line_is_one_that_the_command_takes(line):
    program, name, *words = shlex.split(line)
    assert program == "cutout"
    context = cutout.commands[name].make_context(name, words)  # stops at options that it lacks, and at wrong values
    given = [context.params[parameter.name] for parameter in cutout.commands[name].params[:2]]
    assert given == ["s3://bucket/photos", "s3://bucket/cutouts"]
    assert context.params["address"] == "auto"
    assert context.params["weights"]  # else workers that can't have BRIA's fall back to others
    with pytest.raises(click.UsageError, match="No such option"):
        cutout.commands[name].make_context(name, [*words, "--bucket", "x"])


# --- Kubernetes ---------------------------------------------------------------------------------------


def test_kuberay_takes_the_job():
    jsonschema.validate(JOB, RAY_JOB)
    spec = JOB["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    for group in WORKERS:  # what the command finds when it starts is all there
        assert 0 < group["minReplicas"] == group["replicas"] == group["maxReplicas"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.backOffLimit", 3),
        ("spec.backoffLimit", "3"),
        ("spec.rayClusterSpec.rayVersion", 2.6),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("metadata.name", "Cutout"),
        ("metadata.name", "c" * 48),
    ],
)
def test_a_wrong_job_is_noticed(path, value):
    job = copy.deepcopy(JOB)
    *parents, name = path.split(".")
    inner = job
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("group", TEMPLATES)
def test_kubernetes_takes_the_pods(group, version):
    check_pod(TEMPLATES[group], version)


@pytest.mark.parametrize(
    ("field", "value"),
    [("imagePullpolicy", "Always"), ("env", {"HF_HOME": "/cache"}), ("name", None), ("ports", "6379")],
)
def test_a_wrong_pod_is_noticed(field, value):
    template = copy.deepcopy(TEMPLATES["head"])
    template["spec"]["containers"][0][field] = value
    with pytest.raises(pytest.fail.Exception, match=r"'spec', 'containers'"):
        check_pod(template, KUBERNETES[-1])


@pytest.mark.parametrize("group", TEMPLATES)
def test_pods_have_no_rights_that_they_do_not_need(group):
    """Kubernetes' "restricted" standard for pods."""
    pod, inner = TEMPLATES[group]["spec"]["securityContext"], container(group)["securityContext"]
    assert pod["runAsNonRoot"]
    assert str(pod["runAsUser"]) == instructions("USER")[0]
    assert pod["fsGroup"] == pod["runAsGroup"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for volume in TEMPLATES[group]["spec"].get("volumes", []):
        assert set(volume) == {"name", "emptyDir"}


@pytest.mark.parametrize("group", RAY_GROUPS)
def test_mounts_have_their_volumes_and_ray_its_shared_memory(group):
    from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION

    volumes = {volume["name"]: volume["emptyDir"] for volume in TEMPLATES[group]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]}
    assert sorted(mounts.values()) == sorted(volumes)
    shared = volumes[mounts["/dev/shm"]]
    memory = bytes_of(container(group)["resources"]["limits"]["memory"])
    assert shared["medium"] == "Memory"
    assert memory * DEFAULT_OBJECT_STORE_MEMORY_PROPORTION <= bytes_of(shared["sizeLimit"]) <= memory / 2
    assert container(group)["resources"]["requests"] == container(group)["resources"]["limits"]


def test_workers_need_no_gpus():
    """As the comments have it: without the lines that say "# GPU"."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    job, launcher = (
        re.sub(r"^.*# GPU.*\n", "", (CLUSTER / name).read_text(), flags=re.MULTILINE)
        for name in ("rayjob.yaml", "cluster.yaml")
    )
    job, launcher = yaml.safe_load(job), yaml.safe_load(launcher)
    jsonschema.validate(job, RAY_JOB)
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        check_pod(group["template"], KUBERNETES[-1])
        assert "gpu" not in str(group)
    validate_config(prepare_config(launcher))
    assert launcher["available_node_types"]["worker"]["resources"] == {"CPU": 8}
    assert "gpu" not in str(launcher["docker"])


def test_secrets_are_not_in_the_file():
    for group in RAY_GROUPS:
        (token,) = [setting for setting in container(group)["env"] if setting["name"] == "HF_TOKEN"]
        assert set(token) == {"name", "valueFrom"}
        assert set(token["valueFrom"]) == {"secretKeyRef"}
        assert [set(source) for source in container(group)["envFrom"]] == [{"secretRef"}]
    text = (CLUSTER / "rayjob.yaml").read_text() + (CLUSTER / "cluster.yaml").read_text()
    assert not re.search(r"hf_[A-Za-z]{20,}|AKIA[A-Z0-9]{12,}", text)


def test_no_photo_is_worked_on_at_the_head():
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in container("head")["resources"]["limits"]
    for group in WORKERS:
        limits = container(group["groupName"])["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1"
        assert int(limits["cpu"]) > 1
        assert "num-cpus" not in group["rayStartParams"]  # KubeRay takes them from the limits


def test_the_parameters_of_ray_are_ones_that_it_has():
    from ray.scripts.scripts import start

    for group in (HEAD, *WORKERS):
        words = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        start.make_context("start", words)


# --- Ray's cluster launcher ---------------------------------------------------------------------------


@pytest.fixture
def prepared() -> dict:
    """What `ray up` makes of the file, before it asks AWS for anything."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(copy.deepcopy(LAUNCHER))


def test_ray_takes_the_cluster(prepared):
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared)
    prepared["setup_comands"] = []
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(prepared)


def test_nothing_of_rays_defaults_runs_in_the_image(prepared):
    """They would install another Ray over the image's."""
    for name in ("initialization_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[name] == []
    assert prepared["docker"]["container_name"]


def test_the_launchers_head_does_no_work_and_there_are_workers(prepared):
    types = prepared["available_node_types"]
    head = types.pop(prepared["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0
    (worker,) = types.values()
    assert 0 < worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]
    assert worker["resources"]["GPU"] == 1


def test_the_commands_that_start_ray_are_ones_that_it_takes(prepared):
    from ray.scripts.scripts import cli

    for name, address in (("head", None), ("worker", "$RAY_HEAD_IP:6379")):
        stop, started = prepared[f"{name}_start_ray_commands"]
        assert stop == "ray stop"
        program, command, *words = shlex.split(started.partition("; ")[2])
        assert (program, command) == ("ray", "start")
        given = cli.commands[command].make_context(command, words).params
        assert given["head"] == (name == "head")
        assert given["address"] == address
        assert given["num_cpus"] == (0 if name == "head" else None)
        assert given["autoscaling_config"] == ("~/ray_bootstrap_config.yaml" if name == "head" else None)
        assert given["object_manager_port"] == 8076


@pytest.mark.slow
def test_aws_starts_these_nodes(prepared, tmp_path, monkeypatch):
    """As `ray up` does it, with moto for AWS, which knows its types of machines and what is asked of a call."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler import tags
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # where it puts the key that it makes
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    (tmp_path / ".ssh").mkdir()
    declared = {name: node["resources"] for name, node in prepared["available_node_types"].items()}
    region = prepared["provider"]["region"]
    with mock_aws():
        iam = boto3.client("iam", region)
        iam.create_role(RoleName="any", AssumeRolePolicyDocument="{}")
        for profile in ("ray-autoscaler-v1", "cutout-worker"):  # Ray waits for one that it has to make itself
            iam.create_instance_profile(InstanceProfileName=profile)
            iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName="any")

        for node in prepared["available_node_types"].values():
            node["resources"] = {}
        config = AWSNodeProvider.fillout_available_node_types_resources(prepared)
        there = {name: node["resources"] for name, node in config["available_node_types"].items()}
        assert there["worker"] | declared["worker"] == there["worker"]  # no cores or GPUs that the type has not got

        config = AWSNodeProvider.bootstrap_config(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            kind = tags.NODE_KIND_HEAD if name == config["head_node_type"] else tags.NODE_KIND_WORKER
            marks = {
                tags.TAG_RAY_NODE_KIND: kind,
                tags.TAG_RAY_USER_NODE_TYPE: name,
                tags.TAG_RAY_NODE_NAME: name,
                tags.TAG_RAY_NODE_STATUS: tags.STATUS_UNINITIALIZED,
                tags.TAG_RAY_LAUNCH_CONFIG: "any",
            }
            node_config = node["node_config"] | (config["head_node"] if kind == tags.NODE_KIND_HEAD else {})
            provider.create_node(node_config, marks, 1)
        found = boto3.client("ec2", region).describe_instances()["Reservations"]
        nodes = {node["InstanceType"]: node for reservation in found for node in reservation["Instances"]}
    for node in LAUNCHER["available_node_types"].values():
        started = nodes[node["node_config"]["InstanceType"]]
        assert started["ImageId"] == node["node_config"]["ImageId"]
    assert config["head_node"]["IamInstanceProfile"]["Arn"].endswith("/ray-autoscaler-v1")
    assert nodes["g6.2xlarge"]["IamInstanceProfile"]["Arn"].endswith("/cutout-worker")
